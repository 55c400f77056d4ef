// Dashboards, alerts and recording rules of Assay in the layout of a monitoring mixin: hidden fields
// grafanaDashboards, prometheusAlerts and prometheusRules, and the settings in _config. It imports
// nothing else. `deploy/mixin/build` makes the files in out/ with the settings of config.libsonnet.
(import 'config.libsonnet') +
(import 'rules/rules.libsonnet') +
(import 'alerts/alerts.libsonnet') +
(import 'dashboards/dashboard.libsonnet')
