#!/bin/sh
# Makes the go command of this user use this proxy, by go env -w, and prints what it changes. It keeps
# the values from before in a file beside that of go env: with --undo it restores them.
#
#     curl -fsSL URL/-/setup.sh | sh
#     curl -fsSL URL/-/setup.sh | sh -s -- --undo
set -eu
@VALUES@
stop() {
	echo "setup.sh: $1" >&2
	exit 1
}

# The go command runs in / so that no go.mod here makes it fetch another version of itself.
run_go() { (cd / && go "$@"); }

# has NAME FILE: whether a file of lines NAME=value has a value; value NAME FILE prints it.
has() { [ -f "$2" ] && grep -q "^$1=" "$2"; }
value() { if [ -f "$2" ]; then sed -n "s/^$1=//p" "$2" | tail -n 1; fi; }

# change NAME VALUE writes a setting, and the one from before into $saved, if that has none yet.
change() {
	if has "$1" "$file" && [ "$(value "$1" "$file")" = "$2" ]; then
		echo "$1 is $2 already"
	else
		old=$(value "$1" "$file")
		{
			if [ -f "$saved" ]; then grep -v "^$1\\.new=" "$saved" || true; fi
			if has "$1" "$file" && ! has "$1\\.new" "$saved"; then printf '%s\n' "$1.old=$old"; fi
			printf '%s\n' "$1.new=$2"
		} >"$saved.tmp"
		mv "$saved.tmp" "$saved"
		run_go env -w "$1=$2"
		echo "$1: ${old:-(unset)} -> $2"
	fi
	if [ "$(run_go env "$1")" != "$2" ]; then
		echo "note: the variable $1 of the environment takes precedence; remove it there"
	fi
}

# restore NAME writes the setting from before, unless it was changed since.
restore() {
	has "$1\\.new" "$saved" || return 0
	if [ "$(value "$1" "$file")" != "$(value "$1\\.new" "$saved")" ]; then
		echo "$1 was changed since, and stays: $(value "$1" "$file")"
	elif has "$1\\.old" "$saved"; then
		run_go env -w "$1=$(value "$1\\.old" "$saved")"
		echo "$1: $(value "$1" "$file") again"
	else
		run_go env -u "$1"
		echo "$1: unset again"
	fi
}

main() {
	command -v go >/dev/null || stop "there is no go command in PATH"
	file=$(run_go env GOENV)
	case $file in '' | off) stop "GOENV is off, so go env -w cannot write" ;; esac
	saved=$file.before-assay
	case ${1-} in
	'') ;;
	--undo)
		[ -f "$saved" ] || stop "nothing to undo: there is no $saved"
		for name in GOPROXY GONOSUMDB GOSUMDB; do restore "$name"; done
		rm "$saved"
		return
		;;
	*) stop "unknown argument $1; there is only --undo" ;;
	esac
	mkdir -p "$(dirname "$file")"
	change GOPROXY "$proxy"
	if [ -n "$sumdb" ]; then change GOSUMDB "$sumdb"; fi
	list=$(run_go env GONOSUMDB)
	before=$list
	set -f # the patterns are not names of files
	for pattern in $patterns; do
		case ,$list, in *",$pattern,"*) ;; *) list=${list:+$list,}$pattern ;; esac
	done
	set +f
	if [ "$list" != "$before" ]; then change GONOSUMDB "$list"; fi
	if [ -n "$(run_go env GONOPROXY)" ]; then
		echo "note: the go command does not ask the proxy for modules that match GONOPROXY or GOPRIVATE: $(run_go env GONOPROXY)"
	fi
}

main "$@" # at the end, so that a part of this file does nothing
