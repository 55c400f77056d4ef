#!/usr/bin/env bash
# The unit and the socket for systemd, in a Debian that systemd boots as process 1 of a container, and there
# the deb, whose scripts speak to systemd; and the property list for launchd, which a parser reads. It needs
# root, Docker and Debian's packages.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

name=assay-test-systemd-$$
exposure=12 # most that systemd-analyze security may find, in tenths: it finds 1.1

need docker docker.io
need plistutil libplist-utils
need envsubst gettext-base

step "launchd: the property list"
plistutil -i deploy/launchd/io.github.assay-proxy.assay.plist -o "$scratch/assay.plist"
[ -s "$scratch/assay.plist" ] || fail "no property list"

step "a Debian with systemd"
debian "$scratch/root"
build "$scratch/assay"
install -D -t "$scratch/root/usr/local/bin" "$scratch/assay"
install -D -m 644 -t "$scratch/root/etc/systemd/system" deploy/systemd/assay.service deploy/systemd/assay.socket
install -d "$scratch/root/etc/assay"

# An upstream in a directory: a module with a go file, and a large one.
modules=$scratch/root/srv/modules
"$(helper)" module "$modules" example.com/hello 100
"$(helper)" module "$modules" example.com/large 30000000
chmod -R a+rX "$modules"

tar -C "$scratch/root" -c . | docker import - "$name" >"$scratch/image"
atexit docker rmi "$name"
# systemd needs these rights to make the sandbox of the unit; --privileged asks for more.
docker run -d --name "$name" --hostname assay-test --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE --security-opt seccomp=unconfined \
	--security-opt apparmor=unconfined --tmpfs /run --tmpfs /tmp -v /sys/fs/cgroup:/sys/fs/cgroup:rw \
	-v "$(go env GOROOT)":/usr/local/go:ro "$name" \
	sh -c 'mount --make-rshared / && exec /sbin/init' >"$scratch/container" # systemd does it on a machine; credentials are mounts
atexit docker rm -f "$name"
inside() { docker exec -i "$name" "$@"; }
booted() { case $(inside systemctl is-system-running 2>&1) in running | degraded) ;; *) false ;; esac }
eventually 60 booted
inside systemctl --version | head -1

# property NAME prints a property of the unit.
property() { inside systemctl show assay -p "$1" --value; }
# journal TEXT reports whether the journal has a line of the unit with a text.
journal() { inside journalctl -q --no-pager -o cat -u assay | grep -F -- "$1" >/dev/null; }
# status PATH... prints the status of a request for each path, 000 if the connection is refused.
status() { inside curl -s -o /dev/null -w '%{http_code}\n' "${@/#/http://127.0.0.1:3000}" || true; }
# override TEXT adds a part to the unit.
override() {
	inside mkdir -p /etc/systemd/system/assay.service.d
	printf '%s\n' "$1" | inside tee "/etc/systemd/system/assay.service.d/$RANDOM.conf" >/dev/null
	inside systemctl daemon-reload
}
report() { [ "$status" = 0 ] || inside journalctl -q --no-pager -o cat -u assay -u assay.socket | tail -40 >&2; }
atexit report # while there is a container

step "the files, and what the sandbox leaves"
inside systemd-analyze verify /etc/systemd/system/assay.service /etc/systemd/system/assay.socket
inside systemd-analyze security --offline=true --threshold=$exposure /etc/systemd/system/assay.service | tail -1

step "active means ready"
printf 'upstream = "file:///srv/modules"\nsumdb = "off"\n' | inside tee /etc/assay/assay.toml >/dev/null
inside systemctl enable --now assay
[ "$(status /readyz)" = 200 ] || fail "it is active and not ready"
[ "$(property StatusText)" = "serving on 127.0.0.1:3000" ] || fail "its status is $(property StatusText)"
[ "$(inside stat -c %a /var/lib/private/assay)" = 700 ] || fail "others can read the data directory"

step "a go command"
inside env HOME=/root GOPROXY=http://127.0.0.1:3000 GOSUMDB=off GOTOOLCHAIN=local GOFLAGS=-mod=mod bash -euc '
	mkdir /root/app && cd /root/app
	/usr/local/go/bin/go mod init app
	/usr/local/go/bin/go get example.com/hello@latest
	cat "$(/usr/local/go/bin/go list -m -f "{{.Dir}}" example.com/hello)/x.go"' >"$scratch/go.log" 2>&1 || { cat "$scratch/go.log" && fail "the go command"; }
grep "hello from a module" "$scratch/go.log" || fail "it has another module"
eventually 10 journal 'path=/example.com/hello/@v/v1.0.0.zip'

step "reload"
printf 'upstream = "file:///srv/modules"\nsumdb = "off"\nlog_level = "debug"\n' | inside tee /etc/assay/assay.toml >/dev/null
inside systemctl reload assay
eventually 10 journal 'settings reloaded'
echo 'no such key = 1' | inside tee /etc/assay/assay.toml >/dev/null
inside systemctl reload assay
refused() { [[ $(property StatusText) == *"reload was refused"* ]]; }
eventually 10 refused
[ "$(property ActiveState)/$(status /readyz)" = active/200 ] || fail "a refused reload stops it"

step "secrets as credentials, and a file that only root may read"
inside install -m 600 /dev/null /etc/assay/assay.toml
printf 'sumdb = "off"\n' | inside tee /etc/assay/assay.toml >/dev/null
echo 'file:///srv/modules|http://robot:hunter2@127.0.0.1:9' | inside install -m 600 /dev/stdin /etc/assay/upstream
echo swordfish-in-the-sea | inside install -m 600 /dev/stdin /etc/assay/hook-secret
override '[Service]
LoadCredential=assay.toml:/etc/assay/assay.toml
LoadCredential=hook-secret:/etc/assay/hook-secret
LoadCredential=upstream:/etc/assay/upstream
Environment=ASSAY_CONFIG=%d/assay.toml ASSAY_HOOK_SECRET_FILE=%d/hook-secret ASSAY_UPSTREAM_FILE=%d/upstream'
inside systemctl restart assay
hook() { # hook SIGNATURE prints the status of a webhook
	inside curl -s -o /dev/null -w '%{http_code}' -H "X-Hub-Signature-256: sha256=$1" -H 'X-GitHub-Event: ping' -d '{}' http://127.0.0.1:3000/-/hooks/github
}
signature=$(printf '{}' | openssl dgst -sha256 -hmac swordfish-in-the-sea | awk '{print $NF}')
# The right signature of a body without a repository.
[ "$(hook "$signature")/$(hook "${signature//[0-4]/5}")" = 400/403 ] || fail "webhooks: $(hook "$signature"), $(hook "${signature//[0-4]/5}")"
journal 'upstream_from="environment ASSAY_UPSTREAM_FILE, file /run/credentials/assay.service/upstream"' || fail "the upstream is not that of the file"

step "a restart without the socket refuses, and the loop below would see it"
inside systemctl stop assay
[ "$(status /livez)" = 000 ] || fail "something else serves"

step "restarts under load with the socket refuse no connection"
inside systemctl enable --now assay.socket
inside systemctl start assay
inside bash -c 'touch /tmp/load; for i in 1 2 3 4; do
	while [ -e /tmp/load ]; do curl -s -o /dev/null -w "%{exitcode} %{http_code}\n" http://127.0.0.1:3000/livez; done >/tmp/load.$i &
done; wait' &
load=$!
loaded() { inside bash -c 'cat /tmp/load.* 2>/dev/null | wc -l'; }
grown() { [ "$(loaded)" -gt $((before + 40)) ]; }
for _ in 1 2 3; do
	before=$(loaded)
	eventually 60 grown
	inside systemctl restart assay
done
before=$(loaded)
eventually 60 grown
inside rm /tmp/load
wait $load
results=$(inside bash -c 'cat /tmp/load.* | sort | uniq -c')
echo "requests, exit status of curl, status: $results"
[ "$(awk '{print $2, $3}' <<<"$results")" = "0 200" ] || fail "some requests failed"

step "killed, it starts again, and a client waits"
inside systemctl kill -s KILL assay
[ "$(status /readyz)" = 200 ] || fail "it has not started again"
[ "$(property NRestarts)" = 1 ] || fail "it was restarted $(property NRestarts) times"

step "a program that does not answer is killed by the watchdog"
override '[Service]
WatchdogSec=3
TimeoutAbortSec=1'
inside systemctl restart assay
inside systemctl kill -s STOP assay
[ "$(inside curl -s --max-time 60 -o /dev/null -w '%{http_code}' http://127.0.0.1:3000/readyz)" = 200 ] || fail "no answer after the watchdog"
inside journalctl -q --no-pager -o cat -u assay | grep -F 'Watchdog timeout'

step "a stop lets a transfer finish, longer than the watchdog waits"
inside curl -s -o /dev/null http://127.0.0.1:3000/example.com/large/@v/v1.0.0.zip # it is stored now
inside curl -s --limit-rate 3M -o /tmp/large.zip http://127.0.0.1:3000/example.com/large/@v/v1.0.0.zip &
transfer=$!
begun() { [ "$(inside stat -c %s /tmp/large.zip 2>/dev/null || echo 0)" -gt 1000000 ]; }
eventually 20 begun
inside systemctl stop assay.socket assay &
stop=$!
stopping() { [ "$(property ActiveState)/$(property StatusText)" = "deactivating/finishing transfers" ]; }
eventually 20 stopping
wait $transfer
wait $stop
[ "$(property Result)" = success ] || fail "the stop ended with $(property Result)"
inside cmp /tmp/large.zip /srv/modules/example.com/large/@v/v1.0.0.zip
[ "$(status /livez)" = 000 ] || fail "it still serves"

step "the journal"
for text in 'assay starts' 'settings reloaded' 'reload refused' 'socket=127.0.0.1:3000' 'msg=stopped'; do
	journal "$text" || fail "no $text"
done
for secret in hunter2 swordfish-in-the-sea; do
	! journal "$secret" || fail "a secret is in the journal"
done
inside systemctl show assay | grep -F -e hunter2 -e swordfish-in-the-sea && fail "systemd shows a secret"

step "the deb starts nothing; an upgrade restarts what runs"
inside systemctl disable -q --now assay.socket assay.service
inside rm -rf /etc/systemd/system/assay.service /etc/systemd/system/assay.socket /etc/systemd/system/assay.service.d /etc/assay /usr/local/bin/assay
inside systemctl daemon-reload
nfpm=$(tool github.com/goreleaser/nfpm/v2/cmd/nfpm v2.45.0)
mkdir "$scratch/docs" "$scratch/packages"
for file in assay.1.gz assay.bash assay.fish _assay; do echo text >"$scratch/docs/$file"; done # not what is tested here
for version in 1.0.0 2.0.0 3.0.0; do
	VERSION=$version ARCH=$(go env GOARCH) deploy/release/package "$scratch/assay" "$scratch/docs" "$scratch/packages" "$nfpm"
done
docker cp -q "$scratch/packages" "$name:/packages"
# package VERSION installs it.
package() { inside sh -c "dpkg -i /packages/assay_$1_*.deb </dev/null" >"$scratch/dpkg.log" 2>&1 || { cat "$scratch/dpkg.log" && fail "dpkg"; }; }
package 1.0.0
[ "$(property ActiveState)/$(property UnitFileState)" = inactive/disabled ] || fail "it is $(property ActiveState), $(property UnitFileState)"
grep 'systemctl enable --now assay' "$scratch/dpkg.log" || fail "the package does not say how to start"
printf 'upstream = "file:///srv/modules"\nsumdb = "off"\n' | inside tee -a /etc/assay/assay.toml >/dev/null
inside systemctl enable --now assay
[ "$(status /readyz)/$(property FragmentPath)" = 200//lib/systemd/system/assay.service ] || fail "$(property FragmentPath) is not ready"
before=$(property MainPID)
package 2.0.0
replaced() { [ "$(property ActiveState)" = active ] && [ "$(property MainPID)" != "$before" ]; }
eventually 30 replaced
[ "$(inside readlink "/proc/$(property MainPID)/exe")/$(status /readyz)" = /usr/bin/assay/200 ] || fail "the old program runs"

step "an upgrade with settings that are refused installs the package, and says what is wrong"
inside cp -p /etc/assay/assay.toml /good.toml
echo 'no_such_key = 1' | inside tee -a /etc/assay/assay.toml >/dev/null
package 3.0.0
[ "$(inside dpkg-query -W -f '${Status} ${Version}' assay)" = "install ok installed 3.0.0" ] || fail "dpkg says $(inside dpkg-query -W -f '${Status} ${Version}' assay)"
inside dpkg --audit
eventually 30 journal no_such_key
[ "$(property ActiveState)" != active ] || fail "it serves with settings that it refuses"
inside cp -p /good.toml /etc/assay/assay.toml
inside systemctl reset-failed assay
inside systemctl restart assay
[ "$(status /readyz)" = 200 ] || fail "it does not start with the right settings"

step "remove stops it, purge keeps the data"
inside dpkg -r assay >"$scratch/dpkg.log" 2>&1 || { cat "$scratch/dpkg.log" && fail "dpkg -r"; }
[ "$(status /livez)" = 000 ] || fail "it still serves"
! inside systemctl is-enabled assay 2>/dev/null || fail "it is still enabled"
inside dpkg -P assay >"$scratch/dpkg.log" 2>&1 || { cat "$scratch/dpkg.log" && fail "dpkg -P"; }
grep 'the data in /var/lib/private/assay are kept' "$scratch/dpkg.log" || fail "the package does not say that it keeps the data"
inside test -e /var/lib/private/assay/meta.db
