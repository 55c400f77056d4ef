# Makes the go command of this user use this proxy, by go env -w, and prints what it changes. It keeps
# the values from before in a file beside that of go env: with --undo it restores them.
#
#     curl -fsSL URL/-/setup.fish | source
#     curl -fsSL URL/-/setup.fish | source - --undo

# The go command runs in / so that no go.mod here makes it fetch another version of itself.
function __assay_go
    set -l here $PWD
    builtin cd /
    command go $argv
    set -l result $status
    builtin cd $here
    return $result
end

# Whether a file of lines NAME=value has a value, and the value.
function __assay_has
    test -f $argv[2]; and string match -q -- $argv[1]'=*' <$argv[2]
end

function __assay_value
    __assay_has $argv; or return 0
    set -l lines (string match -- $argv[1]'=*' <$argv[2])
    string sub -s (math (string length -- $argv[1]) + 2) -- $lines[-1]
end

# Writes a setting, and the one from before into $saved, if that has none yet.
function __assay_change -a name new file saved
    set -l old (__assay_value $name $file)
    if __assay_has $name $file; and test "$old" = $new
        echo "$name is $new already"
    else
        set -l lines
        test -f $saved; and set lines (string match -v -- $name'.new=*' <$saved)
        if __assay_has $name $file; and not __assay_has $name.new $saved
            set -a lines "$name.old=$old"
        end
        set -a lines "$name.new=$new"
        printf '%s\n' $lines >$saved; or return 1
        __assay_go env -w "$name=$new"; or return 1
        test -n "$old"; or set old '(unset)'
        echo "$name: $old -> $new"
    end
    set -l used (__assay_go env $name)
    if test "$used" != $new
        echo "note: the variable $name of the environment takes precedence; remove it there"
    end
end

# Writes the setting from before, unless it was changed since.
function __assay_restore -a name file saved
    __assay_has $name.new $saved; or return 0
    set -l now (__assay_value $name $file)
    set -l written (__assay_value $name.new $saved)
    if test "$now" != "$written"
        echo "$name was changed since, and stays: $now"
    else if __assay_has $name.old $saved
        set -l old (__assay_value $name.old $saved)
        __assay_go env -w "$name=$old"; or return 1
        echo "$name: $old again"
    else
        __assay_go env -u $name; or return 1
        echo "$name: unset again"
    end
end

function __assay_setup -a argument
    @VALUES@
    if not command -q go
        echo 'setup.fish: there is no go command in PATH' >&2
        return 1
    end
    set -l file (__assay_go env GOENV)
    if test -z "$file" -o "$file" = off
        echo 'setup.fish: GOENV is off, so go env -w cannot write' >&2
        return 1
    end
    set -l saved $file.before-assay
    switch "$argument"
        case ''
        case --undo
            if not test -f $saved
                echo "setup.fish: nothing to undo: there is no $saved" >&2
                return 1
            end
            for name in GOPROXY GONOSUMDB GOSUMDB
                __assay_restore $name $file $saved; or return 1
            end
            command rm $saved
            return
        case '*'
            echo "setup.fish: unknown argument $argument; there is only --undo" >&2
            return 1
    end
    command mkdir -p (dirname $file); or return 1
    __assay_change GOPROXY $proxy $file $saved; or return 1
    if test -n "$sumdb"
        __assay_change GOSUMDB $sumdb $file $saved; or return 1
    end
    set -l list (__assay_go env GONOSUMDB | string split -n ,)
    set -l before (count $list)
    for pattern in $patterns
        contains -- $pattern $list; or set -a list $pattern
    end
    if test (count $list) -ne $before
        __assay_change GONOSUMDB (string join , $list) $file $saved; or return 1
    end
    set -l direct (__assay_go env GONOPROXY)
    if test -n "$direct"
        echo "note: the go command does not ask the proxy for modules that match GONOPROXY or GOPRIVATE: $direct"
    end
end

__assay_setup $argv
set -l result $status
functions -e __assay_setup __assay_restore __assay_change __assay_value __assay_has __assay_go
test $result -eq 0
