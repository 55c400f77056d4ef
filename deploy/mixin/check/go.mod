module github.com/assay-proxy/assay/deploy/mixin/check

go 1.26.2

require github.com/grafana/grafana-foundation-sdk/go v0.0.22
