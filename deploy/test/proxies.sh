#!/usr/bin/env bash
# Runs the reverse proxies of deploy/proxies in front of the server, each used by curl and a real go
# command over https: nginx from Debian, Caddy from the Go module proxy, and Traefik if there is a
# program (TRAEFIK=FILE), because building it takes longer than all the rest. CADDY=FILE is a Caddy that
# is built already.
#
# The servers run in a network and with a hosts file of their own, where proxy.example and
# corp.example are this machine. Private modules come from a git server over https.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

caddy=github.com/caddyserver/caddy/v2/cmd/caddy@v2.10.2

# outside builds the programs, and runs this file again in a network of its own.
outside() {
	[ "$(uname)/$(id -u)" = Linux/0 ] && unshare --mount --net true || { echo "proxies: needs root on Linux, to make a network" && exit 77; }
	need nginx nginx-light
	need openssl openssl
	need git git
	need curl curl
	need ip iproute2
	step "build assay, caddy and the helper"
	build "$scratch/assay"
	if [ -n "${CADDY-}" ]; then ln -s "$CADDY" "$scratch/caddy"; else GOBIN=$scratch CGO_ENABLED=0 go install "$caddy"; fi
	cp "$(helper)" "$scratch/helper"
	PROXIES_TOOLS=$scratch unshare --mount --net bash "deploy/test/proxies.sh" </dev/null
}

# prepare makes the network, certificates, modules and a repository.
prepare() {
	ip link set lo up
	mount -t tmpfs tmpfs /run # where ip has the names of networks
	ip netns add git          # a network of its own, because each proxy has port 443
	ip link add git0 type veth peer name git1 netns git
	ip addr add 10.99.0.1/24 dev git0 && ip link set git0 up
	ip -n git addr add 10.99.0.2/24 dev git1 && ip -n git link set git1 up
	printf '127.0.0.1 localhost proxy.example\n10.99.0.2 corp.example\n' >"$scratch/hosts"
	mount --bind "$scratch/hosts" /etc/hosts
	chmod 711 "$scratch"
	mkdir "$scratch/upstream" "$scratch/run"
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=test \
		-addext subjectAltName=DNS:proxy.example,DNS:corp.example -keyout "$scratch/key.pem" -out "$scratch/cert.pem" 2>/dev/null
	"$tools/helper" module "$scratch/upstream" example.com/Hello 100
	"$tools/helper" module "$scratch/upstream" example.com/large 60000000
	repository
	start git ip netns exec git "$tools/helper" git "$scratch/git" "$scratch/cert.pem" "$scratch/key.pem"
}

# start NAME COMMAND... runs a program in the background until stop NAME or the end.
declare -A pids
start() {
	local name=$1
	shift
	"$@" >"$scratch/$name.log" 2>&1 </dev/null &
	pids[$name]=$!
	atexit stop "$name"
}
stop() {
	[ -n "${pids[$1]-}" ] || return 0
	kill "${pids[$1]}" || true
	wait "${pids[$1]}" || true
	unset "pids[$1]"
}

# snippet FILE prints a file of deploy/proxies with the paths of this test.
snippet() {
	sed -e "s|/run/assay|$scratch/run|g" -e "s|/etc/ssl/proxy.example.pem|$scratch/cert.pem|" -e "s|/etc/ssl/private/proxy.example.key|$scratch/key.pem|" "deploy/proxies/$1"
}

# serve FILE starts the server with the flags that the comment in the file has.
serve() {
	local flags
	flags=$(snippet "$1" | sed -n 's/^# *assay serve //p')
	[ -n "$flags" ] || fail "$1 does not say how the server runs"
	rm -rf "$scratch/data"
	mkdir "$scratch/data"
	token=$("$tools/assay" token create ci --groups team --data "$scratch/data" 2>"$scratch/token.log" | tail -n 1)
	# shellcheck disable=SC2086 # these are words
	start assay setpriv --regid www-data --clear-groups "$tools/assay" serve --data "$scratch/data" --upstream "file://$scratch/upstream" --sumdb off \
		--vcs-hosts corp.example --ca-file "$scratch/cert.pem" --access corp.example=team --log-name log.example $flags
}

get() { curl -sS --cacert "$scratch/cert.pem" --max-time 60 "$@"; }
status() { get -o /dev/null -w '%{http_code}' "$@"; }
same() { [ "$2" = "$3" ] || fail "$1: $2, want $3"; }

# client [NAME=VALUE...] COMMAND... runs a command with a go command that has never run.
client() {
	env -i PATH="$PATH" HOME="$scratch/home" GOPATH="$scratch/gopath" GOCACHE="$scratch/gocache" GOFLAGS=-modcacherw GOTOOLCHAIN=local \
		SSL_CERT_FILE="$scratch/cert.pem" CURL_CA_BUNDLE="$scratch/cert.pem" GOSUMDB=off "$@"
}

# check NAME uses the server behind a proxy.
check() {
	local base=https://proxy.example/go page size
	rm -rf "$scratch/home" "$scratch/gopath"
	mkdir "$scratch/home"
	eventually 30 curl -sf -o "$scratch/ready" --cacert "$scratch/cert.pem" "$base/readyz"

	step "$1: the page has the URL of the client, whatever headers the client sends"
	for url in $base $base/; do
		page=$(get -L -H 'X-Forwarded-Host: evil.example' -H 'X-Forwarded-Proto: ftp' -H 'X-Forwarded-Prefix: /evil' "$url")
		grep -qF "GOPROXY=$base" <<<"$page" || fail "$url says $page"
		if grep -q evil <<<"$page"; then fail "$url says $page"; fi
	done
	same "outside of the prefix" "$(status https://proxy.example/nosuch)" 404
	same "another prefix" "$(status https://proxy.example/gopher/livez)" 404

	step "$1: the set-up script, and a public module with an escaped path"
	client sh -c "curl -fsSL $base/-/setup.sh | sh" >"$scratch/setup.log"
	same "GOPROXY of the client" "$(client go env GOPROXY)" $base
	client go mod download example.com/Hello@v1.0.0
	same "%21" "$(status $base/example.com/%21hello/@v/v1.0.0.info)" 200
	same "cached-only" "$(status $base/cached-only/example.com/!hello/@v/v1.0.0.info)" 200

	step "$1: a private module needs the token"
	if client go mod download corp.example/lib.git@v1.0.0 2>"$scratch/denied.log"; then fail "a private module without a token"; fi
	printf 'machine proxy.example login ci password %s\n' "$token" >"$scratch/home/.netrc"
	client go mod download corp.example/lib.git@v1.0.0

	step "$1: statuses, texts, ranges and conditions pass unchanged"
	same "a version that does not exist" "$(status $base/example.com/!hello/@v/v9.9.9.info)" 404
	get $base/example.com/nosuch/@v/list | grep -q '^not found: ' || fail "the text of a 404"
	same "a wrong method" "$(status -X POST $base/example.com/!hello/@v/list)" 405
	same "a range" "$(get -r 10-19 -w ' %{http_code}' $base/example.com/!hello/@v/v1.0.0.mod)" "$(printf 'module example.com/Hello\n' | cut -c 11-20) 206"
	same "an entity tag" "$(status -H "If-None-Match: $(get -I $base/example.com/!hello/@v/v1.0.0.mod | tr -d '\r' | sed -n 's/^[Ee][Tt]ag: //p')" $base/example.com/!hello/@v/v1.0.0.mod)" 304

	step "$1: a large zip is not kept by the proxy; the log has the client's address"
	get --interface 127.0.0.77 --limit-rate 10M -o "$scratch/large.zip" $base/example.com/large/@v/v1.0.0.zip &
	local transfer=$!
	eventually 30 test -s "$scratch/large.zip"
	sleep 1
	size=$(files_of "${pids[proxy]}")
	wait $transfer
	cmp "$scratch/large.zip" "$scratch/upstream/example.com/large/@v/v1.0.0.zip"
	[ "$size" -lt 1000000 ] || fail "the proxy has files of $size bytes"
	grep -q 'path=/example.com/large/@v/v1.0.0.zip .* remote=127.0.0.77$' "$scratch/assay.log" || fail "the log has $(grep large "$scratch/assay.log")"
	same "metrics for clients" "$(status $base/metrics)" 404
	same "metrics for machines" "$(status http://localhost:9464/metrics)" 200
	stop proxy
	stop assay
}

# files_of PID prints how many bytes of files a process and its children have open for writing, the
# log aside.
files_of() {
	local pid fd sum=0
	for pid in "$1" $(pgrep -P "$1"); do
		for fd in /proc/"$pid"/fd/*; do
			case $(readlink "$fd") in
			"$scratch"/*.log | /dev/* | socket:* | pipe:* | anon_inode:*) ;;
			*) sum=$((sum + $(stat -L -c %s "$fd" 2>/dev/null || echo 0))) ;;
			esac
		done
	done
	echo $sum
}

# report prints the end of each log after a failure.
report() { [ "$status" = 0 ] || tail -n 5 "$scratch"/*.log >&2; }

inside() {
	tools=$PROXIES_TOOLS
	atexit report
	prepare

	serve nginx.conf
	snippet nginx.conf >"$scratch/assay.conf"
	printf 'user www-data;\ndaemon off;\npid %s/nginx.pid;\nevents {}\nhttp { access_log off; include %s; }\n' "$scratch" "$scratch/assay.conf" >"$scratch/nginx.conf"
	start proxy nginx -e "$scratch/nginx-error.log" -c "$scratch/nginx.conf"
	check nginx

	serve Caddyfile
	snippet Caddyfile >"$scratch/Caddyfile"
	start proxy env HOME="$scratch" "$tools/caddy" run --config "$scratch/Caddyfile"
	check Caddy

	if [ -z "${TRAEFIK-}" ]; then
		step "Traefik is NOT run: set TRAEFIK to a program"
		return
	fi
	serve traefik.yml
	snippet traefik.yml >"$scratch/assay.yml"
	start proxy "$TRAEFIK" --entryPoints.https.address=:443 --providers.file.filename="$scratch/assay.yml"
	check "$("$TRAEFIK" version 2>&1 | sed -n 's/^Version: */Traefik /p')"
}

if [ -n "${PROXIES_TOOLS-}" ]; then inside; else outside; fi
