// Alerts. Each has a section in docs/runbook.md, and a test in tests/ that fires and one that does not.
{
  local config = $._config,
  local selector = config.selector,
  local by = 'job, instance',

  // alert returns a rule; in expr, %(sel)s selects the series of all servers.
  local alert(name, severity, wait, expr, summary) = {
    alert: name,
    expr: expr % (config { sel: selector, by: by }),
    [if wait != '' then 'for']: wait,
    labels: { severity: severity },
    annotations: {
      summary: summary,
      runbook_url: config.runbookURL % std.asciiLower(name),
    },
  },

  // Above 0 for a day after something that an administrator must examine.
  local happened(metric) = 'increase(%s{%%(sel)s}[1d]) > 0' % metric,

  // A share of failures that uses up the month's error budget so many times too fast, now and for long.
  local burn(times, short, long) = |||
    1 - assay:hits_available:ratio_rate%(short)s{%%(sel)s} > %(limit)s
    and
    1 - assay:hits_available:ratio_rate%(long)s{%%(sel)s} > %(limit)s
  ||| % { short: short, long: long, limit: '%.6g' % (times * (1 - config.slo.hits)) },

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'assay.availability',
        rules: [
          alert('AssayDown', 'critical', '5m', |||
            up{%(sel)s} == 0 or absent(up{%(sel)s})
          |||, 'Prometheus cannot scrape Assay{{ with $labels.instance }} at {{ . }}{{ end }}.'),
          alert('AssayHitsBudgetBurnsFast',
                'critical',
                '2m',
                burn(14.4, '5m', '1h'),
                'Assay at {{ $labels.instance }} fails {{ $value | humanizePercentage }} of the requests that it could answer from its store.'),
          alert('AssayHitsBudgetBurnsSlowly',
                'warning',
                '15m',
                burn(6, '30m', '6h'),
                'Assay at {{ $labels.instance }} fails {{ $value | humanizePercentage }} of the requests that it could answer from its store.'),
          alert('AssayErrors', 'warning', '10m', |||
            sum by (%(by)s) (rate(assay_cache_requests_total{%(sel)s, result=~"error|aborted"}[10m]))
              / sum by (%(by)s) (rate(assay_cache_requests_total{%(sel)s, result!="gone"}[10m])) > %(errorShare)g
            and
            sum by (%(by)s) (increase(assay_cache_requests_total{%(sel)s}[10m])) > 100
          |||, '{{ $value | humanizePercentage }} of the requests to Assay at {{ $labels.instance }} fail.'),
          alert('AssayNoUpstream', 'critical', '5m', |||
            min by (%(by)s) (assay_upstream_breaker_state{%(sel)s}) > 0
          |||, 'Assay at {{ $labels.instance }} reaches no upstream; it serves only what it has stored.'),
          alert('AssayUpstreamBreakerOpen', 'warning', '10m', |||
            assay_upstream_breaker_state{%(sel)s} > 0
          |||, 'The upstream {{ $labels.upstream }} does not answer Assay at {{ $labels.instance }}.'),
          alert('AssayPanic', 'warning', '', |||
            increase(assay_http_panics_total{%(sel)s}[1d]) + increase(assay_fill_panics_total{%(sel)s}[1d]) > 0
          |||, 'Assay at {{ $labels.instance }} had an internal error, which is a defect of the program.'),
        ],
      },
      {
        name: 'assay.integrity',
        rules: [
          alert('AssayChecksumMismatch',
                'critical',
                '',
                happened('assay_checksum_mismatches_total'),
                'An upstream sent Assay at {{ $labels.instance }} a module that differs from the record of the checksum database.'),
          alert('AssaySumdbFork',
                'critical',
                '',
                'assay_sumdb_frozen{%(sel)s} == 1',
                'The checksum database {{ $labels.database }} signed two histories; Assay at {{ $labels.instance }} accepts nothing new from it.'),
          alert('AssaySumdbConflict',
                'critical',
                '',
                happened('assay_sumdb_conflicts_total'),
                'The checksum database {{ $labels.database }} has two records of one module version.'),
          alert('AssaySumdbStale', 'warning', '10m', |||
            time() - (assay_sumdb_refresh_timestamp_seconds{%(sel)s} > 0) > %(headAgeSeconds)d
          |||, 'Assay at {{ $labels.instance }} has received no head of the checksum database {{ $labels.database }} for {{ $value | humanizeDuration }}.'),
          alert('AssayLogFrozen',
                'critical',
                '5m',
                'assay_log_frozen{%(sel)s} == 1',
                'The own log of Assay at {{ $labels.instance }} signs nothing; new private versions are refused.'),
          alert('AssayPrivateChanged',
                'critical',
                '',
                happened('assay_private_changed_total'),
                'A private version differs from the content that Assay at {{ $labels.instance }} has pinned.'),
          alert('AssayStorageDamaged',
                'critical',
                '',
                happened('assay_storage_damaged_reads_total'),
                'Stored bytes of Assay at {{ $labels.instance }} have changed on disk.'),
        ],
      },
      {
        name: 'assay.resources',
        rules: [
          alert('AssayDiskFull', 'critical', '5m', |||
            assay_disk_free_bytes{%(sel)s} < %(diskFreeBytes)d
            and assay_disk_free_bytes{%(sel)s} / assay_disk_size_bytes{%(sel)s} < %(diskFreeShare)g
          |||, 'The disk of Assay at {{ $labels.instance }} has only {{ $value | humanize1024 }}B left.'),
          alert('AssayDiskFullSoon', 'warning', '1h', |||
            predict_linear(assay_disk_free_bytes{%(sel)s}[6h], 86400) < 0
            and assay_disk_free_bytes{%(sel)s} / assay_disk_size_bytes{%(sel)s} < 0.25
          |||, 'The disk of Assay at {{ $labels.instance }} will be full within a day at the rate of the last six hours.'),
          alert('AssayStoreFull', 'critical', '5m', |||
            (assay_storage_file_bytes{%(sel)s} - assay_storage_file_free_bytes{%(sel)s})
              / (assay_storage_file_limit_bytes{%(sel)s} > 0) > %(storeUsedShare)g
          |||, 'The file {{ $labels.file }}.db of Assay at {{ $labels.instance }} uses {{ $value | humanizePercentage }} of what store-limit allows.'),
          alert('AssayMemoryRefused', 'warning', '10m', |||
            sum by (%(by)s, share) (increase(assay_memory_refused_total{%(sel)s}[10m])) > 0
          |||, 'The share {{ $labels.share }} of the memory budget of Assay at {{ $labels.instance }} is used up again and again.'),
          alert('AssayConnectionsRefused', 'warning', '10m', |||
            increase(assay_http_connections_refused_total{%(sel)s}[10m]) > 0
          |||, 'Assay at {{ $labels.instance }} refuses connections.'),
          alert('AssayPlacesRefused', 'warning', '10m', |||
            sum by (%(by)s, places, reason) (increase(assay_places_refused_total{%(sel)s}[10m])) > 0
          |||, 'Assay at {{ $labels.instance }} refuses requests because too many fetches ({{ $labels.places }}) run or wait.'),
        ],
      },
      {
        name: 'assay.disk_limit',
        rules: [
          alert('AssayDiskLimitRefused', 'critical', '', |||
            increase(assay_disk_limit_refused_total{%(sel)s}[15m]) > 0
            unless on (%(by)s) assay_bucket_answers{%(sel)s}
          |||, 'Assay at {{ $labels.instance }} refuses to store what must be stored: nothing can be evicted for it below disk-limit.'),
          alert('AssayDiskLimitExceeded', 'warning', '1h', |||
            assay_disk_limit_used_bytes{%(sel)s} > (assay_disk_limit_bytes{%(sel)s} > 0)
          |||, 'The data directory of Assay at {{ $labels.instance }} takes {{ $value | humanize1024 }}B, which is more than disk-limit.'),
          alert('AssayDiskLimitSmall', 'warning', '6h', |||
            increase(assay_evicted_bytes_total{%(sel)s}[1d]) > (assay_disk_limit_bytes{%(sel)s} > 0)
          |||, 'Assay at {{ $labels.instance }} has evicted {{ $value | humanize1024 }}B within a day, which is more than disk-limit.'),
          alert('AssayTierDisk', 'warning', '', |||
            sum by (%(by)s) (increase(assay_tier_local_errors_total{%(sel)s}[15m])) > 0
          |||, 'The disk with the local copies of Assay at {{ $labels.instance }} has errors; the bucket serves instead.'),
        ],
      },
      {
        name: 'assay.bucket',
        rules: [
          alert('AssayBucketAway', 'critical', '2m', |||
            assay_bucket_answers{%(sel)s} == 0
          |||, 'The object store does not answer Assay at {{ $labels.instance }}, which serves local copies only.'),
          alert('AssayBucketExchanged', 'critical', '', |||
            assay_bucket_exchanged{%(sel)s} == 1
          |||, 'The bucket of Assay at {{ $labels.instance }} was emptied or exchanged; it reads and writes nothing there.'),
          alert('AssayBucketErrors', 'warning', '10m', |||
            sum by (%(by)s) (rate(assay_bucket_requests_total{%(sel)s, result=~"refused|busy|unreachable|silent"}[10m]))
              / sum by (%(by)s) (rate(assay_bucket_requests_total{%(sel)s, result!~"ended|unsent"}[10m])) > %(bucketErrorShare)g
          |||, '{{ $value | humanizePercentage }} of the requests of Assay at {{ $labels.instance }} to the bucket fail.'),
          alert('AssayBucketSlow', 'warning', '15m', |||
            histogram_quantile(0.9, sum by (%(by)s, le) (rate(assay_bucket_answer_seconds_bucket{%(sel)s, operation="get"}[10m]))) > %(bucketGetSeconds)g
          |||, 'One of ten reads from the bucket takes Assay at {{ $labels.instance }} longer than {{ $value | humanizeDuration }}.'),
        ],
      },
      {
        name: 'assay.replicas',
        rules: [
          alert('AssayNoNews', 'warning', '5m', |||
            time() - assay_news_read_timestamp_seconds{%(sel)s} > %(newsSeconds)d
          |||, 'Assay at {{ $labels.instance }} does not get the news of the servers with which it shares the bucket.'),
          alert('AssayNewsFail', 'warning', '5m', |||
            increase(assay_news_failed_total{%(sel)s}[5m]) > 0
          |||, 'Assay at {{ $labels.instance }} cannot take over what other servers have changed.'),
          alert('AssayFreezeNotShared', 'critical', '2m', |||
            max by (job, database) (assay_sumdb_frozen{%(sel)s} and on (%(by)s) assay_bucket_answers{%(sel)s}) == 1
            and
            min by (job, database) (assay_sumdb_frozen{%(sel)s} and on (%(by)s) assay_bucket_answers{%(sel)s}) == 0
          |||, 'The checksum database {{ $labels.database }} has forked, and not all servers that share the bucket know it.'),
          alert('AssayLeases', 'warning', '15m', |||
            sum by (%(by)s) (rate(assay_leases_total{%(sel)s, result=~"late|none"}[15m]))
              / sum by (%(by)s) (rate(assay_leases_total{%(sel)s}[15m])) > %(leaseShare)g
            and
            sum by (%(by)s) (increase(assay_leases_total{%(sel)s}[15m])) > 50
          |||, 'Assay at {{ $labels.instance }} fetches {{ $value | humanizePercentage }} of what other servers may be fetching, too.'),
          alert('AssayLogOvertaken', 'warning', '15m', |||
            rate(assay_log_overtaken_total{%(sel)s}[15m])
              > on (%(by)s) %(overtakenShare)g * sum by (%(by)s) (rate(assay_log_appends_total{%(sel)s, result="appended"}[15m]))
            and
            increase(assay_log_overtaken_total{%(sel)s}[15m]) > 100
          |||, 'Other servers write to the own log before Assay at {{ $labels.instance }} can, again and again.'),
          alert('AssayVersionsDiffer', 'warning', '2h', |||
            count by (job) (count by (job, version) (assay_build_info{%(sel)s} and on (%(by)s) assay_bucket_answers{%(sel)s})) > 1
          |||, 'The servers that share a bucket run {{ $value }} versions of Assay.'),
        ],
      },
      {
        name: 'assay.settings',
        rules: [
          alert('AssayCertificateExpires', 'critical', '10m', |||
            (assay_tls_certificate_expiry_timestamp_seconds{%(sel)s} > 0) - time() < %(certificateDays)d * 86400
          |||, 'The certificate of Assay at {{ $labels.instance }} expires in {{ $value | humanizeDuration }}.'),
          alert('AssayClockSkew', 'warning', '15m', |||
            min by (%(by)s) (abs(assay_upstream_clock_skew_seconds{%(sel)s})) > %(clockSkewSeconds)d
          |||, 'The clock of Assay at {{ $labels.instance }} differs from that of every upstream, by {{ $value | humanizeDuration }}.'),
          alert('AssayReloadFailed',
                'warning',
                '1m',
                'assay_config_last_reload_successful{%(sel)s} == 0',
                'The new settings of Assay at {{ $labels.instance }} are invalid; the old ones are in force.'),
          alert('AssayLogLinesDropped', 'warning', '', |||
            sum by (%(by)s, kind) (increase(assay_logging_dropped_lines_total{%(sel)s}[15m])) > 0
          |||, 'The log of Assay at {{ $labels.instance }} is not read in time, and lines ({{ $labels.kind }}) are lost.'),
          alert('AssayPrivateNamesLeak', 'warning', '', |||
            sum by (%(by)s, kind) (increase(assay_leak_requests_total{%(sel)s}[1h])) > 0
          |||, 'Clients of Assay at {{ $labels.instance }} are not configured for private modules ({{ $labels.kind }}).'),
          alert('AssayCredentialRefused', 'warning', '', |||
            sum by (%(by)s) (increase(assay_vcs_runs_total{%(sel)s, outcome="credential"}[30m])) > 0
          |||, 'A code host refuses a credential of Assay at {{ $labels.instance }}.'),
        ],
      },
    ],
  },
}
