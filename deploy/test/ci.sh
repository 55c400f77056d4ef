#!/usr/bin/env bash
# The templates of deploy/ci, as far as go test does not run them (ci.txtar runs the scripts in all of them):
# actionlint reads the workflow, the libraries of Buildkite and Drone read their pipelines, and Docker builds the
# Dockerfile with modules from a proxy that wants a token, on an image of busybox and the local Go.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

step "actionlint reads the workflow, with the inputs of the action"
GOBIN=$scratch go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
mkdir -p "$scratch/repository/.github/workflows" "$scratch/repository/.git"
cp -r deploy/ci/github "$scratch/repository/action"
sed 's|uses: assay-proxy/.*|uses: ./action|' deploy/ci/github/workflow.yml >"$scratch/repository/.github/workflows/test.yml"
(cd "$scratch/repository" && "$scratch/actionlint")
sed -i 's/audience: assay/audiences: assay/' "$scratch/repository/.github/workflows/test.yml"
if (cd "$scratch/repository" && "$scratch/actionlint") >"$scratch/lint.log"; then fail "actionlint does not know the inputs of the action"; fi
grep -q '"audiences" is not defined in action' "$scratch/lint.log" || fail "actionlint says $(cat "$scratch/lint.log")"

step "Buildkite and Drone read their pipelines"
(cd deploy/ci/check && go vet . && go test -count=1 .)

step "Docker builds the Dockerfile"
if ! docker info >/dev/null 2>&1; then
	echo "there is no Docker engine: skipped"
	exit 0
fi
# BuildKit of the engine: a newer client than Debian's wants a plugin for it.
client=docker
command -v docker >/dev/null && docker buildx version >/dev/null 2>&1 || client=/usr/bin/docker
export DOCKER_BUILDKIT=1
need openssl openssl
need busybox busybox-static
image=assay-test-ci
remove() { command "$client" rmi -f "$image"-{go,build,prog} >/dev/null 2>&1; }
atexit remove

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
	-keyout "$scratch/tls.key" -out "$scratch/tls.crt" 2>/dev/null
root=$scratch/root
mkdir -p "$root"/{bin,etc/ssl/certs,tmp,usr/local}
cp "$(command -v busybox)" "$root/bin/busybox"
for program in sh cat; do ln -s busybox "$root/bin/$program"; done
cp "$scratch/tls.crt" "$root/etc/ssl/certs/ca-certificates.crt" # of the proxy alone: nothing else answers the build
tar -c -C "$root" . -C / --exclude='*/testdata' --exclude='*_test.go' --transform 's,^usr/local/go,./usr/local/go,' usr/local/go |
	"$client" import -c 'ENV PATH=/usr/local/go/bin:/bin GOPATH=/go GOTOOLCHAIN=local' - "$image-go" >/dev/null

build "$scratch/assay"
mkdir "$scratch/data"
"$scratch/assay" token create ci --groups build --data "$scratch/data" >"$scratch/token"
ASSAY_TOKEN=$(cat "$scratch/token")
export ASSAY_TOKEN
"$scratch/assay" serve --listen localhost:0 --data "$scratch/data" --upstream "$(go env GOPROXY)" --anonymous=false \
	--tls-cert "$scratch/tls.crt" --tls-key "$scratch/tls.key" >"$scratch/url" 2>"$scratch/assay.log" &
server=$!
stop() { kill "$server" && wait "$server"; }
atexit stop
eventually 30 grep -q '^Assay serves ' "$scratch/url"
url=$(sed -n 's/^Assay serves //p' "$scratch/url")

mkdir "$scratch/prog"
version=$(go list -m -f '{{.Version}}' golang.org/x/mod)
printf 'package main\n\nimport "golang.org/x/mod/semver"\n\nfunc main() { println(semver.Max("v1.0.0", "v1.2.0")) }\n' >"$scratch/prog/prog.go"
printf 'module prog.example/prog\n\ngo %s\n\nrequire golang.org/x/mod %s\n' "$(go list -m -f '{{.GoVersion}}' golang.org/x/mod)" "$version" >"$scratch/prog/go.mod"
grep "^golang.org/x/mod $version" go.sum >"$scratch/prog/go.sum"
sed -e "s|https://proxy.corp.example|$url|g" -e "s|^FROM golang:1.26|FROM $image-go|" deploy/ci/Dockerfile >"$scratch/prog/Dockerfile"

# image TAG ARGUMENT... builds the Dockerfile, or one of its stages.
image() { (cd "$scratch/prog" && "$client" build --network host --progress plain -t "$@" .) >"$scratch/build.log" 2>&1; }
if image "$image-prog"; then fail "the build needs no token"; fi
grep -q '401 Unauthorized' "$scratch/build.log" || { cat "$scratch/build.log" && fail "the build without a token fails with another error"; }
for attempt in "$image-prog" "$image-build --target build"; do
	# shellcheck disable=SC2086 # arguments
	image $attempt --secret id=assay,env=ASSAY_TOKEN || { cat "$scratch/build.log" && fail "the build fails"; }
done
got=$("$client" run --rm --network none "$image-prog" /bin/prog 2>&1)
[ "$got" = v1.2.0 ] || fail "the program prints $got"

step "no layer, no setting and no log has the token"
"$client" save "$image-build" "$image-prog" >"$scratch/images.tar"
"$client" history --no-trunc "$image-build" >"$scratch/history"
grep -q 'go mod download' "$scratch/history" || fail "the history is $(cat "$scratch/history")"
grep -q 'module prog.example/prog' "$scratch/images.tar" || fail "the layers cannot be searched"
if grep -lF "$ASSAY_TOKEN" "$scratch/images.tar" "$scratch/history" "$scratch/build.log" "$scratch/assay.log"; then fail "a file has the token"; fi
