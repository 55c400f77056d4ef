# Functions for the parts in this directory, which source this file after set -euo pipefail. They run
# with the root of the repository as the current directory, and have a directory of their own, $scratch.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scratch=$(mktemp -d)
# What the parts of one deploy/test/run make once.
shared=${SHARED:-$scratch/shared}
mkdir -p "$shared"

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
	command -v "$command" >/dev/null || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y -o DPkg::Lock::Timeout=300 "$@"; } >"$scratch/apt.log" 2>&1 ||
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

# tool PACKAGE VERSION installs a program from the Go module proxy, and prints its file.
tool() {
	local file=$shared/tools/${1##*/}
	[ -x "$file" ] || GOBIN=${file%/*} GOFLAGS= go install "$1@$2"
	echo "$file"
}

# helper prints the file of the program in testdata, which needs no library.
helper() {
	[ -x "$shared/helper" ] || CGO_ENABLED=0 go build -o "$shared/helper" deploy/test/testdata/helper.go
	echo "$shared/helper"
}

# remove IMAGE... removes images, if they exist.
remove() { command docker rmi -f "$@" >/dev/null 2>&1; }

# image NAME PACKAGE PROGRAMS OWNED CHANGES makes an image that has this NAME until this script ends, of some
# programs of a Debian package and the libraries that they need. A directory OWNED belongs to user 65534.
image() {
	local root=$scratch/images/$1 program
	if command docker image inspect "$1" >/dev/null 2>&1; then return; fi
	atexit remove "$1"
	mkdir -p "$root"/{bin,etc,tmp} "$root$4" "$scratch/debian"
	(cd "$scratch/debian" && apt-get download -q "$2" && dpkg -x "$2"_*.deb .) >"$scratch/apt.log" 2>&1 || { cat "$scratch/apt.log" && fail "no package $2"; }
	for program in $3; do
		cp "$scratch/debian/usr/bin/$program" "$root/bin/"
		ldd "$root/bin/$program" | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} "$root"
	done
	chmod 1777 "$root/tmp" && chown 65534:65534 "$root$4"
	# As in the official image, which does not start where this is forbidden.
	[ "$2" != caddy ] || setcap cap_net_bind_service=+ep "$root/bin/caddy"
	tar -c --xattrs --xattrs-include=security.capability -C "$root" . | command docker import -c "$5" - "$1"
}

# bare NAME PROGRAM [CHANGES] makes an image from scratch that has this NAME until this script ends, of one program, which
# belongs to user 65532 as its directory /data does. What a program that is not static needs is copied, too.
bare() {
	local root=$scratch/bare/$1
	if command docker image inspect "$1" >/dev/null 2>&1; then return; fi
	atexit remove "$1"
	mkdir -p "$root"/{tmp,data}
	cp "$2" "$root/"
	{ ldd "$2" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | xargs -I{} cp -L --parents {} "$root"
	chmod 1777 "$root/tmp" && chown -R 65532:65532 "$root/data"
	tar -c -C "$root" . | command docker import -c "ENTRYPOINT [\"/${2##*/}\"]
${3:-}" - "$1"
}

# debian DIRECTORY makes a Debian 12, with the packages that one of the parts needs.
debian() {
	local made=$shared/debian
	if [ ! -e "$made.tar" ]; then
		need debootstrap debootstrap
		atexit umount -q "$made/proc" "$made/sys" # in case debootstrap is interrupted
		mkdir -p "$made/etc/dpkg/dpkg.cfg.d"
		echo force-unsafe-io >"$made/etc/dpkg/dpkg.cfg.d/unsafe-io" # one that is interrupted is made again
		debootstrap --variant=minbase --include=ca-certificates,curl,git,openssh-client,systemd,systemd-sysv bookworm "$made" \
			"${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$scratch/debootstrap.log" 2>&1 ||
			{ tail -5 "$scratch/debootstrap.log" && fail "no Debian"; }
		rm -rf "$made"/etc/dpkg/dpkg.cfg.d/unsafe-io "$made"/var/{cache/apt,lib/apt/lists} "$made"/usr/share/{doc,locale,man}
		tar -C "$made" -cf "$made.part" .
		mv "$made.part" "$made.tar"
		rm -rf "$made"
	fi
	mkdir -p "$1"
	tar -C "$1" -xf "$made.tar"
}

# repository makes the repository of the module corp.example/lib.git, with a version v1.0.0, in $scratch/git.
repository() {
	mkdir -p "$scratch/git"
	git init -q --bare -b main "$scratch/git/lib.git"
	git init -q -b main "$scratch/lib"
	printf 'module corp.example/lib.git\n' >"$scratch/lib/go.mod"
	printf 'package lib\n' >"$scratch/lib/lib.go"
	git -C "$scratch/lib" add .
	git -C "$scratch/lib" -c user.name=a -c user.email=a@corp.example commit -q -m first
	git -C "$scratch/lib" tag v1.0.0
	git -C "$scratch/lib" push -q "$scratch/git/lib.git" main v1.0.0
}
