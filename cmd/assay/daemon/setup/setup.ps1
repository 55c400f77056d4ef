# Makes the go command of this user use this proxy, by go env -w, and prints what it changes. It keeps
# the values from before in a file beside that of go env: with -Undo it restores them.
#
#     irm URL/-/setup.ps1 | iex
#     & ([scriptblock]::Create((irm URL/-/setup.ps1))) -Undo
param([switch]$Undo)

& {
    param([bool]$Undo)
    $ErrorActionPreference = 'Stop'
    @VALUES@
    # Runs the go command in the directory of the program's files, so that no go.mod here makes it fetch
    # another version of itself.
    function Invoke-Go {
        Push-Location ([IO.Path]::GetPathRoot($HOME))
        try {
            $output = & go @args
            if ($LASTEXITCODE -ne 0) { throw "setup.ps1: go $args failed" }
            "$output"
        } finally { Pop-Location }
    }
    # Reads a file of lines NAME=value.
    function Read-Values([string]$path) {
        $values = @{}
        if (Test-Path -LiteralPath $path) {
            foreach ($line in [IO.File]::ReadAllLines($path)) {
                $name, $value = $line -split '=', 2
                if ($null -ne $value) { $values[$name] = $value }
            }
        }
        $values
    }
    # Writes a setting, and the one from before into $saved, if that has none yet.
    function Set-GoValue([string]$name, [string]$new) {
        $now = Read-Values $file
        if ($now.ContainsKey($name) -and $now[$name] -ceq $new) {
            "$name is $new already"
        } else {
            $kept = Read-Values $saved
            if ($now.ContainsKey($name) -and -not $kept.ContainsKey("$name.new")) { $kept["$name.old"] = $now[$name] }
            $kept["$name.new"] = $new
            [IO.File]::WriteAllLines($saved, [string[]]@($kept.Keys | ForEach-Object { $_ + '=' + $kept[$_] }))
            $null = Invoke-Go env -w "$name=$new"
            $old = if ($now[$name]) { $now[$name] } else { '(unset)' }
            "${name}: $old -> $new"
        }
        if ((Invoke-Go env $name) -cne $new) {
            "note: the variable $name of the environment takes precedence; remove it there"
        }
    }
    # Writes the setting from before, unless it was changed since.
    function Restore-GoValue([string]$name) {
        $now = Read-Values $file
        $kept = Read-Values $saved
        if (-not $kept.ContainsKey("$name.new")) { return }
        if ($now[$name] -cne $kept["$name.new"]) {
            "$name was changed since, and stays: $($now[$name])"
        } elseif ($kept.ContainsKey("$name.old")) {
            $null = Invoke-Go env -w "$name=$($kept["$name.old"])"
            "${name}: $($kept["$name.old"]) again"
        } else {
            $null = Invoke-Go env -u $name
            "${name}: unset again"
        }
    }

    if (-not (Get-Command go -ErrorAction SilentlyContinue)) { throw 'setup.ps1: there is no go command in PATH' }
    $file = Invoke-Go env GOENV
    if ($file -eq '' -or $file -eq 'off') { throw 'setup.ps1: GOENV is off, so go env -w cannot write' }
    $saved = "$file.before-assay"
    if ($Undo) {
        if (-not (Test-Path -LiteralPath $saved)) { throw "setup.ps1: nothing to undo: there is no $saved" }
        foreach ($name in 'GOPROXY', 'GONOSUMDB', 'GOSUMDB') { Restore-GoValue $name }
        Remove-Item -LiteralPath $saved
        return
    }
    $null = [IO.Directory]::CreateDirectory([IO.Path]::GetDirectoryName($file))
    Set-GoValue 'GOPROXY' $proxy
    if ($sumdb) { Set-GoValue 'GOSUMDB' $sumdb }
    $list = @((Invoke-Go env GONOSUMDB) -split ',' | Where-Object { $_ })
    $missing = @($patterns | Where-Object { $list -cnotcontains $_ })
    if ($missing.Count -gt 0) { Set-GoValue 'GONOSUMDB' (@($list + $missing) -join ',') }
    $direct = Invoke-Go env GONOPROXY
    if ($direct) { "note: the go command does not ask the proxy for modules that match GONOPROXY or GOPRIVATE: $direct" }
} $Undo.IsPresent
