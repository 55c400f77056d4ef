// Recording rules: what the objectives and the dashboard read. docs/monitoring.md says what each means.
{
  local config = $._config,

  // In each expression %(sel)s selects the series of all servers, and %(by)s tells servers apart.
  local rule(record, expr, values={}) = {
    record: record,
    expr: expr % (values { sel: config.selector, by: 'job, instance' }),
  },

  // Requests for stored objects. Failures are those of the server itself, of which it is not known
  // whether the object was stored, so the quotient is a lower bound.
  local objective(window) = [
    rule('assay:hits:rate' + window, |||
      sum by (%(by)s) (rate(assay_cache_requests_total{%(sel)s, result=~"hit|stale|negative"}[%(window)s]))
    |||, { window: window }),
    rule('assay:hits_failed:rate' + window, |||
      sum by (%(by)s) (rate(assay_http_connections_refused_total{%(sel)s}[%(window)s]))
      + sum by (%(by)s) (rate(assay_memory_refused_total{%(sel)s, share="answers"}[%(window)s]))
      + (
        sum by (%(by)s) (rate(assay_http_responses_total{%(sel)s, code="500"}[%(window)s]))
        or sum by (%(by)s) (0 * up{%(sel)s})
      )
    |||, { window: window }),
    rule('assay:hits_available:ratio_rate' + window, |||
      assay:hits:rate%(window)s{%(sel)s}
      / (assay:hits:rate%(window)s{%(sel)s} + assay:hits_failed:rate%(window)s{%(sel)s} > 0)
      * sum by (%(by)s) (avg_over_time(up{%(sel)s}[%(window)s]))
      or
      sum by (%(by)s) (avg_over_time(up{%(sel)s}[%(window)s])) < 1
    |||, { window: window }),
  ],

  prometheusRules+:: {
    groups+: [
      {
        name: 'assay.requests',
        rules: [
          rule('assay:requests:rate5m', |||
            sum by (%(by)s, kind, result) (rate(assay_cache_requests_total{%(sel)s}[5m]))
          |||),
          rule('assay:hits:ratio_rate5m', |||
            sum by (%(by)s) (assay:requests:rate5m{%(sel)s, result="hit"})
            / (sum by (%(by)s) (assay:requests:rate5m{%(sel)s}) > 0)
          |||),
          rule('assay:errors:ratio_rate5m', |||
            sum by (%(by)s) (assay:requests:rate5m{%(sel)s, result=~"error|aborted"})
            / (sum by (%(by)s) (assay:requests:rate5m{%(sel)s, result!="gone"}) > 0)
          |||),
        ],
      },
      {
        name: 'assay.objectives',
        rules: std.flatMap(objective, ['5m', '30m', '1h', '6h']) + [
          // The label of a bucket of whole seconds is 1 or, since Prometheus 3, 1.0.
          rule('assay:hits_fast:ratio_rate5m', |||
            sum by (%(by)s) (rate(assay_http_first_byte_seconds_bucket{%(sel)s, result=~"hit|stale|negative", le=~"%(seconds)s|%(seconds)s[.]0"}[5m]))
            / (sum by (%(by)s) (rate(assay_http_first_byte_seconds_count{%(sel)s, result=~"hit|stale|negative"}[5m])) > 0)
          |||, { seconds: '%g' % config.slo.firstByteSeconds }),
          rule('assay:answers_fast:ratio_rate5m', |||
            sum by (%(by)s) (rate(assay_http_request_duration_seconds_bucket{%(sel)s, le=~"%(seconds)s|%(seconds)s[.]0"}[5m]))
            / (sum by (%(by)s) (rate(assay_http_request_duration_seconds_count{%(sel)s}[5m])) > 0)
          |||, { seconds: '%g' % config.slo.answerSeconds }),
          rule('assay:head_age_seconds', |||
            time() - (assay_sumdb_refresh_timestamp_seconds{%(sel)s} > 0)
          |||),
          rule('assay:lists_fresh:ratio_rate5m', |||
            sum by (%(by)s) (assay:requests:rate5m{%(sel)s, kind=~"list|latest", result=~"hit|miss|coalesced"})
            / (sum by (%(by)s) (assay:requests:rate5m{%(sel)s, kind=~"list|latest", result=~"hit|miss|coalesced|stale"}) > 0)
          |||),
        ],
      },
    ],
  },
}
