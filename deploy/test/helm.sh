#!/usr/bin/env bash
# The Helm chart and the plain manifests: linted, rendered with the values in deploy/helm/tests, decoded
# into the types of the APIs, and the pod that they describe run by Docker as a kubelet would run it.
# There is no cluster: nothing is applied.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
chart=deploy/helm/assay

step "tools"
mkdir "$scratch/rendered" "$scratch/manifests" "$scratch/upgraded"
export HELM_CACHE_HOME=$scratch/helm HELM_CONFIG_HOME=$scratch/helm HELM_DATA_HOME=$scratch/helm
PATH=$(dirname "$(tool helm.sh/helm/v4/cmd/helm v4.3.2)"):$PATH
helm version --short

step "lint, and render with each file of values"
for values in deploy/helm/tests/*.yaml; do
	helm lint --strict --quiet "$chart" -f "$values"
	helm template assay "$chart" --namespace go -f "$values" >"$scratch/rendered/$(basename "$values")"
done

step "wrong values are refused"
while IFS='|' read -r arguments message; do
	case $arguments in "" | "#"*) continue ;; esac
	read -r message <<<"$message"
	# shellcheck disable=SC2086 # several arguments
	if helm template assay "$chart" $arguments >"$scratch/out" 2>&1; then fail "helm accepts $arguments"; fi
	grep -qF -- "$message" "$scratch/out" || fail "$arguments: not $message, but $(cat "$scratch/out")"
done <deploy/helm/tests/refused.txt

step "the notes"
helm install assay "$chart" --namespace go --dry-run=client >"$scratch/notes"
grep -qF 'go env -w GOPROXY=http://assay.go.svc' "$scratch/notes" || fail "the notes are $(cat "$scratch/notes")"
grep -qF 'exec assay-0 -- assay backup' "$scratch/notes" || fail "the notes are $(cat "$scratch/notes")"
helm install assay "$chart" --namespace go --dry-run=client -f deploy/helm/tests/aws.yaml >"$scratch/notes"
grep -qF 'use what the object store has for backups' "$scratch/notes" || fail "the notes are $(cat "$scratch/notes")"
! grep -F 'assay backup' "$scratch/notes" || fail "the notes have a backup that there is not"

step "the plain manifests are those that the chart makes"
deploy/kubernetes/build "$scratch/manifests"
for made in "$scratch"/manifests/*.yaml; do diff "deploy/kubernetes/$(basename "$made")" "$made"; done

step "an upgrade changes nothing that cannot be changed"
cp -r "$chart" "$scratch/next"
sed -i -e 's/^version: .*/version: 9.9.9/' -e 's/^appVersion: .*/appVersion: "9.9.9"/' "$scratch/next/Chart.yaml"
for values in deploy/helm/tests/*.yaml; do
	helm template assay "$scratch/next" --namespace go -f "$values" >"$scratch/upgraded/$(basename "$values")"
done

step "the objects are valid, and keep the promises of docs/kubernetes.md"
cat deploy/kubernetes/{assay,monitoring,routes,prewarm,restore}.yaml >"$scratch/rendered/manifests.yaml"
cp deploy/kubernetes/replicas.yaml "$scratch/rendered/manifests-replicas.yaml"
cp "$scratch"/rendered/manifests*.yaml "$scratch/upgraded"
(cd deploy/helm/check && go vet . && go test -count=1 . -rendered "$scratch/rendered" -upgraded "$scratch/upgraded")

step "kubeconform, with schemas made of what Go modules have"
kubeconform=$(tool github.com/yannh/kubeconform/cmd/kubeconform v0.8.0)
# module PATH VERSION prints the directory of a module.
module() { (cd "$scratch" && GOFLAGS=-mod=mod go mod download -json "$1@$2") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }
mkdir "$scratch/schemas"
swagger=$(module k8s.io/kubernetes v1.37.2)/api/openapi-spec/swagger.json
routes=$(module sigs.k8s.io/gateway-api v1.6.3)/config/crd/standard
monitors=$(module github.com/prometheus-operator/prometheus-operator v0.94.0)/example/prometheus-operator-crd
(cd deploy/helm/check && go run testdata/schemas.go "$scratch/schemas" "$swagger" "$routes"/*.yaml "$monitors"/*.yaml)
# conform prints what is wrong with objects; without a schema for its kind an object is wrong.
conform() { "$kubeconform" -schema-location "$scratch/schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"; }
conform -summary "$scratch"/rendered/*.yaml
for broken in 's/^kind: StatefulSet/kind: Statefulset/' 's/^      terminationGracePeriodSeconds: .*/&\n      terminationGrace: 1/' \
	's/^\( *\)interval: .*/\1interval: often/' 's/^\( *\)readOnlyRootFilesystem: true/\1readOnlyRootFilesystem: "yes"/'; do
	sed "$broken" "$scratch/rendered/large.yaml" >"$scratch/broken.yaml"
	cmp -s "$scratch/rendered/large.yaml" "$scratch/broken.yaml" && fail "$broken changes nothing"
	if conform "$scratch/broken.yaml" >"$scratch/out"; then fail "kubeconform accepts $broken"; fi
done

step "Docker runs the pod as a kubelet would"
if ! docker version >/dev/null 2>&1; then
	echo "there is no Docker: skipped"
	exit 0
fi
need htpasswd apache2-utils
need openssl openssl
secrets=$scratch/secrets
mkdir -p "$secrets"/{users,hook,netrc,credentials,tls,upstream}
echo 'https://robot:swordfish@proxy.example.com' >"$secrets/upstream/upstream"
htpasswd -Bbc -C 5 "$secrets/users/htpasswd" alice secret
echo 'staff: alice' >"$secrets/users/groups"
echo 'a secret of some length' >"$secrets/hook/hook-secret"
echo 'machine git.example.com login a password b' >"$secrets/netrc/netrc"
printf '[[credential]]\npattern = "git.example.org/*"\nnetrc = "/etc/assay/secrets/netrc"\n' >"$secrets/credentials/credentials.toml"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=assay \
	-keyout "$secrets/tls/tls.key" -out "$secrets/tls/tls.crt" 2>/dev/null
helm template assay "$chart" --set-string config.private='git.example.com/*' --set-string config.access='git.example.com/*=staff' \
	--set config.vcs=off --set config.anonymous=true --set secrets.htpasswd.existingSecret=users --set secrets.groups.existingSecret=users \
	--set secrets.hook_secret_file.existingSecret=hook --set secrets.netrc.existingSecret=netrc --set tls.existingSecret=tls \
	--set secrets.upstream_file.existingSecret=upstream \
	--set shutdown.delaySeconds=3 >"$scratch/pod.yaml"
build "$scratch/assay"
printf 'FROM scratch\nCOPY assay /assay\nUSER 65532:65532\nENTRYPOINT ["/assay"]\n' >"$scratch/Dockerfile"
docker build --quiet --tag assay-test-helm "$scratch"
atexit docker rmi --force assay-test-helm
(cd deploy/helm/check && go test -count=1 -timeout 5m -run '^TestPod$' . -pod "$scratch/pod.yaml" -image assay-test-helm \
	-secrets "$secrets" -restore ../../kubernetes/restore.yaml)
