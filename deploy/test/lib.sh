# Functions for the parts in this directory, which source this file after set -euo pipefail. They run
# with the root of the repository as the current directory, and have a directory of their own, $scratch.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scratch=$(mktemp -d)

# atexit COMMAND... runs a command when the part ends, the last one first.
cleanups=()
atexit() { cleanups=("$(printf '%q ' "$@")" "${cleanups[@]}"); }
cleanup() {
	local status=$?
	set +e
	for command in "${cleanups[@]}"; do eval "$command"; done
	chmod -R u+w "$scratch" && rm -rf "$scratch"
	exit "$status"
}
trap cleanup EXIT

step() { printf -- '-- %s\n' "$*"; }
fail() {
	printf 'FAILED: %s\n' "$*" >&2
	exit 1
}

# need COMMAND PACKAGE... installs Debian packages, if the command is missing.
need() {
	local command=$1
	shift
	command -v "$command" >/dev/null || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y "$@"; } >"$scratch/apt.log" 2>&1 ||
		{ cat "$scratch/apt.log" && fail "apt-get cannot install $*"; }
}

# build OUT [GOOS/GOARCH] builds the program as a release does.
build() {
	local target=${2:-$(go env GOOS)/$(go env GOARCH)}
	CGO_ENABLED=0 GOOS=${target%/*} GOARCH=${target#*/} go build -trimpath -ldflags='-s -w' -o "$1" ./cmd/assay
}

# eventually SECONDS COMMAND... repeats a command until it succeeds.
eventually() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || fail "not within the time: $*"
		sleep 0.2
	done
}
