#!/usr/bin/env bash
# docker-compose.yml and deploy/Dockerfile: both images are built; the plain file and the profiles tls, monitoring
# and replicas serve a real go command in a container; the server is killed, upgraded with the volume of an
# earlier version, backed up, lost and restored by the commands of docs/backup.md; replicas are killed.
#
# The images that cannot be pulled here are made from Debian's packages under the names in the files, unless
# these names exist: golang:1.26, caddy:2, prom/prometheus. Grafana's image is not made, and not run.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

docker info >/dev/null 2>&1 || { echo "there is no Docker engine" && exit 77; }
need docker-compose docker-compose
export COMPOSE_PROJECT_NAME=assay-test-compose COMPOSE_FILE=docker-compose.yml
# The engine chooses free ports.
export PORT=0 TLS_PORT=0 PROMETHEUS_PORT=0 GRAFANA_PORT=0 REPLICAS_PORT=0 TLS_DIR=$scratch/tls
export GOPROXY=${GOPROXY:-$(go env GOPROXY)} GOSUMDB=${GOSUMDB:-$(go env GOSUMDB)} # as the builds of compose
export DOCKER_BUILDKIT=0 # the images of one build share the cache of its first stage
name=$COMPOSE_PROJECT_NAME network=${COMPOSE_PROJECT_NAME}_inside
earlier=c91c5df # its keys do not say what vouches for an object: the first start of a later version moves them
module=golang.org/x/mod@$(go list -m -f '{{.Version}}' golang.org/x/mod)

# docker compose ... is what the documents say; where the engine has no such command, docker-compose is the same.
compose() { if command docker compose version >/dev/null 2>&1; then command docker compose "$@"; else command docker-compose "$@"; fi; }
docker() { if [ "$1" = compose ]; then shift && compose "$@"; else command docker "$@"; fi; }

# container prints the id of the server's container.
container() { compose ps -q assay; }
inspect() { docker inspect -f "$1" "$(container)"; }
healthy() { [ "$(inspect '{{.State.Health.Status}}')" = healthy ]; }

# gocommand PROXY ARG... runs the go command with an empty cache in a container of the network, which trusts the
# certificate of the test. Everything that it gets is verified with sum.golang.org, through the PROXY alone.
gocommand() {
	docker run --rm --network "$network" -e GOPROXY="$1" -e GOSUMDB=sum.golang.org -e GONOSUMDB=corp.example -e GOFLAGS=-modcacherw -e SSL_CERT_DIR=/etc/ssl/certs:/tls \
		-v "$scratch/tls:/tls:ro" golang:1.26 timeout 120 go "${@:2}" </dev/null
}

# documented FILE FIRST LAST prints the commands in a file of docs/ between two lines.
documented() {
	sed -n "/^$2/,\$p" "docs/$1" | grep "^$3" >/dev/null || fail "docs/$1 has no line that begins with $2, and after it one with $3"
	sed -n "/^$2/,/^$3/s/^    //p" "docs/$1"
}

remove_git() { command docker rm -f "$name-git" >/dev/null 2>&1; }
remove_network() { command docker network rm "${name}_default" >/dev/null 2>&1; }
# logs shows the logs of all containers, if the script has failed: status is a variable of lib.sh.
logs() { [ "$status" = 0 ] || compose --profile tls --profile monitoring --profile replicas logs --no-color --tail 15; }
down() { compose --profile tls --profile monitoring --profile replicas down --volumes --remove-orphans -t 5 >/dev/null 2>&1; }
atexit remove_network
atexit remove "$name"-{vcs,build,old,old-build,assay} "${name}_assay" "${name}_assay-"{1,2,3}
atexit down
atexit logs
mkdir "$scratch/tls" "$scratch/old"
down || true

step "images"
if ! docker image inspect golang:1.26 >/dev/null 2>&1; then
	debian "$scratch/root"
	cp /etc/ssl/certs/ca-certificates.crt "$scratch/root/etc/ssl/certs/" # what this machine trusts
	atexit remove golang:1.26
	tar -c --transform 's,^usr/local/go,./usr/local/go,' -C "$scratch/root" . -C / usr/local/go |
		docker import -c 'ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin GOPATH=/go GOTOOLCHAIN=local' - golang:1.26
	rm -rf "$scratch/root"
fi
need setcap libcap2-bin
image caddy:2 caddy caddy /config 'CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]'
image "$(sed -n 's/^ *image: \(prom.*\)/\1/p' docker-compose.yml)" prometheus "prometheus promtool" /prometheus 'USER 65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
docker build --force-rm -f deploy/Dockerfile --build-arg GOPROXY --build-arg GOSUMDB --target build -t "$name-build" . >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" && fail "build"; }
grep -o 'context to Docker daemon *[0-9.]*[a-zA-Z]*' "$scratch/build.log" | tail -1

step "an earlier version fills its volume"
git archive "$earlier" | tar -x -C "$scratch/old"
# The build has what the build above has downloaded and compiled, and one target.
sed -i "/^FROM golang:1.26 AS vcs/,/^CMD/d; s/^FROM golang:1.26 AS build/FROM $name-build AS build/; s/^WORKDIR .*/WORKDIR \/earlier/; /go mod download/d" "$scratch/old/deploy/Dockerfile"
sed -i 's/127.0.0.1:3000:3000/127.0.0.1::3000/' "$scratch/old/docker-compose.yml"
docker build --force-rm -f "$scratch/old/deploy/Dockerfile" --target build -t "$name-old-build" "$scratch/old" >"$scratch/build.log" 2>&1 ||
	{ cat "$scratch/build.log" && fail "the earlier version does not build"; }
(cd "$scratch/old" && compose build --force-rm && compose up -d) >"$scratch/old.log" 2>&1 || { cat "$scratch/old.log" && fail "the earlier version does not start"; }
docker tag "$(inspect '{{.Image}}')" "$name-old"
eventually 60 healthy
network=${name}_default gocommand http://assay:3000 mod download "$module"
inspect 'the earlier version is {{.Image}}'

step "docker compose up -d, on the volume of the earlier version, without an upstream"
printf 'services:\n  assay:\n    environment:\n      ASSAY_UPSTREAM: "off"\n' >"$scratch/off.yml"
compose build --force-rm assay >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" && fail "build"; }
! grep "go: downloading" "$scratch/build.log" || fail "docker compose builds again what is built above: the arguments differ"
COMPOSE_FILE=docker-compose.yml:$scratch/off.yml compose up -d assay >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log" && fail "up"; }
eventually 120 healthy
gocommand http://assay:3000 mod download -x "$module"
compose logs --no-color assay >"$scratch/log"
grep -q 'keys' "$scratch/log" || { cat "$scratch/log" && fail "the first start of this version has moved no keys"; }

step "not root, no capabilities, a read-only root, limits"
[ "$(inspect '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Memory}}')" = '65532:65532 true 536870912' ] || fail "the container is not what the file says"
status=/proc/$(inspect '{{.State.Pid}}')/status
for line in 'Uid:.65532.65532.65532.65532' 'CapEff:.0000000000000000' 'CapBnd:.0000000000000000' 'NoNewPrivs:.1'; do
	grep "^$line$" "$status" || fail "$line is not in the status of the process"
done
! grep -i '"level":"warn"' "$scratch/log" || fail "a warning in the log of the plain file"
grep -q '"memory limit"' "$scratch/log" || fail "the log does not say the memory limit"
! compose exec -T assay assay backup /not-writable || fail "the root is writable"

step "kill -9, with an upstream"
compose up -d assay >"$scratch/up.log" 2>&1
eventually 60 healthy
gocommand http://assay:3000 mod download "github.com/spf13/pflag@$(go list -m -f '{{.Version}}' github.com/spf13/pflag)"
before=$(inspect '{{.State.StartedAt}}')
kill -9 "$(inspect '{{.State.Pid}}')"
restarted() { [ "$(inspect '{{.State.StartedAt}}')" != "$before" ] && healthy; }
eventually 60 restarted
gocommand http://assay:3000/cached-only mod download "$module" "github.com/spf13/pflag@$(go list -m -f '{{.Version}}' github.com/spf13/pflag)"

step "a secret"
echo 'https://robot:hunter2@proxy.golang.org' >"$scratch/upstream"
chown 65532 "$scratch/upstream" && chmod 400 "$scratch/upstream"
printf 'services:\n  assay:\n    environment:\n      ASSAY_UPSTREAM_FILE: /run/secrets/upstream\n    secrets: [upstream]\nsecrets:\n  upstream: {file: %s}\n' \
	"$scratch/upstream" >"$scratch/secret.yml"
COMPOSE_FILE=docker-compose.yml:$scratch/secret.yml compose up -d assay >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log" && fail "up"; }
eventually 60 healthy
compose exec -T assay assay config | grep -Fx '# From: environment ASSAY_UPSTREAM_FILE, file /run/secrets/upstream' || fail "the upstream is not that of the file"
compose logs --no-color assay >"$scratch/log"
! grep hunter2 "$scratch/log" || fail "the secret is in the log"
! inspect '{{json .}}' | grep hunter2 || fail "Docker shows the secret"
compose up -d assay >"$scratch/up.log" 2>&1
eventually 60 healthy

step "profile tls"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=caddy -addext subjectAltName=DNS:caddy,DNS:corp.example \
	-keyout "$scratch/tls/tls.key" -out "$scratch/tls/tls.crt" 2>/dev/null
chmod 755 "$scratch" "$scratch/tls" && chown 65532:65532 "$scratch/tls/tls.key"
compose --profile tls up -d >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log" && fail "up"; }
address=127.0.0.1:$(compose port caddy 8443 | sed 's/.*://')
page() { curl -fsS --cacert "$scratch/tls/tls.crt" --connect-to "caddy:443:$address" -H 'X-Forwarded-Prefix: /evil' -H 'X-Forwarded-For: 192.0.2.1' "https://caddy$1"; }
eventually 60 page / >/dev/null 2>&1
for url in https://caddy:8443 https://caddy:8443/go; do
	gocommand "$url" mod download "$module"
done
page / | grep -q 'GOPROXY=https://caddy$' || fail "the page at / does not have its URL"
page /go/ | grep -q 'GOPROXY=https://caddy/go$' || fail "the page at /go/ does not have its URL"
! page /metrics || fail "the metrics are public"
compose logs --no-color assay >"$scratch/log"
! grep -qE '"path":"/(go/)?".*"remote":"(172.30.49.200|192.0.2.1)"|"remote":"(172.30.49.200|192.0.2.1)".*"path":"/' "$scratch/log" ||
	fail "the log has the reverse proxy, or what a client states, instead of the client"

step "profile monitoring, without Grafana"
compose --profile monitoring up -d assay prometheus >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log" && fail "up"; }
query() { local prometheus && prometheus=$(compose --profile monitoring port prometheus 9090 2>/dev/null) && curl -fsS -G "http://$prometheus/api/v1/$1" "${@:2}"; }
scraped() { query query --data-urlencode 'query=up{job="assay"} == 1' | grep '"instance":"assay:9100"'; }
eventually 90 scraped
# All rules of deploy/mixin are evaluated.
evaluated() { query rules >"$scratch/rules" && grep -q '"health":"ok"' "$scratch/rules" && ! grep -q '"health":"unknown"' "$scratch/rules"; }
eventually 60 evaluated
! grep '"health":"err"' "$scratch/rules" || fail "a rule fails"
for file in rules alerts; do grep -q "/etc/prometheus/rules/$file.yaml" "$scratch/rules" || fail "Prometheus has no $file.yaml"; done

step "profile replicas"
compose rm -f -s assay prometheus >"$scratch/up.log" 2>&1
store=$(sed -n 's/^ *image: \(versity.*\)/\1/p' docker-compose.yml)
bare "$store" "$(CGO_ENABLED=0 tool github.com/versity/versitygw/cmd/versitygw "${store##*:}")"
replicas() { compose --profile replicas "$@"; }
replicas build --force-rm assay-1 assay-2 assay-3 >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" && fail "build"; }
replicas up -d balancer >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log" && fail "up"; }
[ -z "$(container)" ] || fail "the profile starts the server that is alone"
ready() { docker exec "$(replicas ps -q "$1")" /assay health >/dev/null 2>&1; }
for server in assay-1 assay-2 assay-3; do eventually 120 ready "$server"; done
gocommand http://balancer:8080 mod download "$module"
replicas logs --no-color assay-1 assay-2 assay-3 >"$scratch/log"
[ "$(grep -c '"store in a bucket"' "$scratch/log")" -ge 3 ] || { cat "$scratch/log" && fail "a server has no store in the bucket"; }
! grep -v '"path":"/readyz"' "$scratch/log" | grep -F '"remote":"172.30.49.201"' || fail "the log has the load balancer instead of the client"
! gocommand http://objects:7070 mod download "$module" 2>"$scratch/log" || fail "the object store is in the network of clients"
grep -q 'no such host\|server misbehaving' "$scratch/log" || { cat "$scratch/log" && fail "the object store is in the network of clients"; }
# One server after the other is killed: what is stored is served, and what is not is fetched.
docker kill "$(replicas ps -q assay-1)" >/dev/null
gocommand http://balancer:8080 mod download "$module" "github.com/spf13/pflag@$(go list -m -f '{{.Version}}' github.com/spf13/pflag)"
docker kill "$(replicas ps -q assay-2)" >/dev/null
gocommand http://balancer:8080/cached-only mod download "$module" "github.com/spf13/pflag@$(go list -m -f '{{.Version}}' github.com/spf13/pflag)"
replicas up -d balancer >"$scratch/up.log" 2>&1
docker kill "$(replicas ps -q assay-3)" >/dev/null
for server in assay-1 assay-2; do eventually 120 ready "$server"; done
gocommand http://balancer:8080/cached-only mod download "$module"

step "a server that runs is copied into the bucket, as docs/replicas.md says"
compose up -d assay >"$scratch/up.log" 2>&1
eventually 60 healthy
docker network connect "${name}_objects" "$(container)"
copy() {
	docker exec -e AWS_ACCESS_KEY_ID=assay -e AWS_SECRET_ACCESS_KEY=only-in-the-network-objects "$(container)" \
		assay store copy /data "s3://assay/copied?endpoint=http://objects:7070&path-style=true"
}
copy
copy
replicas rm -f -s balancer assay-1 assay-2 assay-3 objects >"$scratch/up.log" 2>&1
compose up -d assay >"$scratch/up.log" 2>&1

step "backup, loss of the volume, restore, by the commands of docs/backup.md and docs/operations.md"
backup=$(documented backup.md 'instead, and' '(The user' | grep '^docker compose')
restore=$(documented backup.md 'In a container' 'In Kubernetes')
verify=$(documented operations.md '\*Verify' '\*TLS')
for commands in "$backup" "$restore" "$verify"; do
	[ -n "$commands" ] || fail "a document has no commands for this"
done
# run executes commands of a document, which may read and write assay.tar.
run() {
	printf '%s\n' "${1//assay.tar/$scratch/assay.tar}" >"$scratch/commands"
	sed 's/^/   $ /' "$scratch/commands"
	. "$scratch/commands"
}
run "$backup"
down
export COMPOSE_FILE=docker-compose.yml:$scratch/off.yml
run "$restore"
eventually 60 healthy
gocommand http://assay:3000 mod download -x "$module"
run "$verify"
eventually 60 healthy

step "the image with go, git and ssh, and a private module of a git server with a password"
docker build --force-rm -f deploy/Dockerfile --build-arg GOPROXY --build-arg GOSUMDB --target vcs -t "$name-vcs" . >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" && fail "build of vcs"; }
mkdir -p "$scratch/secrets"
repository
printf 'machine corp.example login git password swordfish\n' >"$scratch/secrets/netrc"
chown -R 0:65532 "$scratch/secrets" && chmod 750 "$scratch/secrets" && chmod 440 "$scratch/secrets/netrc"
printf 'services:
  assay:
    image: %s-vcs
    mem_limit: 1g
    environment: {ASSAY_PRIVATE: corp.example, ASSAY_CA_FILE: /tls/tls.crt, ASSAY_NETRC: /secrets/netrc}
    volumes: ["%s/tls:/tls:ro", "%s/secrets:/secrets:ro"]\n' "$name" "$scratch" "$scratch" >"$scratch/vcs.yml"
export COMPOSE_FILE=docker-compose.yml:$scratch/vcs.yml
compose up -d --no-build assay >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log" && fail "up"; }
eventually 60 healthy
docker run -d --name "$name-git" --network "$network" --network-alias corp.example -e PASSWORD=swordfish -v "$scratch/git:/git:ro" -v "$(helper):/helper:ro" \
	-v "$scratch/tls:/tls:ro" golang:1.26 /helper git /git /tls/tls.crt /tls/tls.key >/dev/null
atexit remove_git
gitserver() { docker exec "$name-git" git -c http.sslCAInfo=/tls/tls.crt ls-remote https://git:swordfish@corp.example/lib.git; }
eventually 30 gitserver
inspect '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}' | grep -qx '65532:65532 true'
compose exec -T assay sh -c 'id -un && go version && git --version && ssh -V'
compose exec -T assay assay backup - >"$scratch/vcs.tar"
gocommand http://assay:3000 mod download "$module"
gocommand http://assay:3000 mod download -x corp.example/lib.git@v1.0.0
! compose exec -T assay sh -c 'echo >/not-writable' || fail "the root is writable"
compose logs --no-color assay >"$scratch/log"
! grep swordfish "$scratch/log" || fail "the password is in the log"
# What is stored needs no git server, and no credential.
docker rm -f "$name-git" >/dev/null
gocommand http://assay:3000/cached-only mod download corp.example/lib.git@v1.0.0
