#!/usr/bin/env bash
# The dashboard, the alerts and the recording rules in deploy/mixin: made from their sources, checked by
# promtool and by Grafana's schema, and run by a real Prometheus against servers under load. Grafana
# itself is not run: it is in neither Debian nor the Go module proxy.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

step "tools"
mkdir "$scratch/bin" "$scratch/out" "$scratch/debian"
PATH=$scratch/bin:$PATH
GOBIN=$scratch/bin go install github.com/google/go-jsonnet/cmd/jsonnet@v0.22.0
if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
	# Unpacked, not installed: the package would start a service.
	(cd "$scratch/debian" && apt-get update -q && apt-get download -q prometheus && dpkg -x prometheus_*.deb .) >"$scratch/apt.log" 2>&1 ||
		{ cat "$scratch/apt.log" && fail "apt-get cannot download prometheus"; }
	PATH=$scratch/debian/usr/bin:$PATH
fi
prometheus --version 2>&1 | head -1

step "the built files are those that the sources make"
deploy/mixin/build "$scratch/out"
diff -r deploy/mixin/out "$scratch/out"

step "promtool"
promtool check rules deploy/mixin/out/{alerts,rules}.yaml
promtool test rules deploy/mixin/tests/*.yaml

step "Grafana's schema"
(cd deploy/mixin/check && go test -count=1 .)

step "each query returns data"
go test -tags monitoring -count=1 -timeout 10m -run '^TestMonitoring$' -v ./cmd/assay
