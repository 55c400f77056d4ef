// The dashboard. Its panels are in rows by part of the program; each has a description.
{
  local config = $._config,
  local selector = 'job=~"$job", instance=~"$instance"',

  local datasource = { type: 'prometheus', uid: '${datasource}' },

  // A query, and the text for each of its series. %(sel)s selects the chosen servers.
  local query(expr, legend='') = { expr: expr % { sel: selector, range: '$__rate_interval' }, legend: legend },

  local targets(queries) = [
    {
      refId: std.char(std.codepoint('A') + i),
      datasource: datasource,
      expr: queries[i].expr,
      legendFormat: queries[i].legend,
    }
    for i in std.range(0, std.length(queries) - 1)
  ],

  local panel(type, title, description, width, queries) = {
    type: type,
    title: title,
    description: description,
    datasource: datasource,
    targets: targets(queries),
    gridPos: { w: width, h: 7, x: 0, y: 0 },
    fieldConfig: { defaults: {}, overrides: [] },
  },

  // graph shows series over time.
  local graph(title, unit, description, queries, stacked=false) = panel('timeseries', title, description, 8, queries) + {
    fieldConfig+: {
      defaults+: {
        unit: unit,
        min: 0,
        custom: { lineWidth: 1, fillOpacity: 10, showPoints: 'never', stacking: { mode: if stacked then 'normal' else 'none', group: 'A' } },
      },
    },
    options: {
      legend: { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] },
      tooltip: { mode: 'multi', sort: 'desc' },
    },
  },

  // number shows the last value; steps are pairs of a value and the colour from there on.
  local number(title, unit, description, expr, steps=[]) = panel('stat', title, description, 3, [query(expr)]) + {
    gridPos+: { h: 4 },
    fieldConfig+: {
      defaults+: {
        unit: unit,
        thresholds: {
          mode: 'absolute',
          steps: [{ value: null, color: 'green' }] + [{ value: step[0], color: step[1] } for step in steps],
        },
      },
    },
    options: {
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
      colorMode: 'value',
      graphMode: 'none',
      justifyMode: 'auto',
      orientation: 'auto',
      textMode: 'auto',
      wideLayout: true,
      showPercentChange: false,
      percentChangeColorMode: 'standard',
    },
  },

  // The rate of a counter for each value of its labels.
  local rates(metric, labels, legend, more='') =
    query('sum by (%s) (rate(%s{%%(sel)s%s}[%%(range)s])) > 0' % [labels, metric, more], legend),

  // Quantiles of a histogram, for each value of labels.
  local quantiles(metric, labels='', legend='') = [
    query('histogram_quantile(%s, sum by (le%s) (rate(%s_bucket{%%(sel)s}[%%(range)s])))' %
          [q, if labels == '' then '' else ', ' + labels, metric], (if legend == '' then '' else legend + ' ') + 'p' + q[2:])
    for q in ['0.50', '0.95', '0.99']
  ],

  local rows = [
    ['Overview', [
      number('Servers', 'none', 'Servers that Prometheus can scrape.', 'sum(up{%(sel)s})', []),
      number('Requests', 'reqps', 'Requests for modules and checksum databases.', 'sum(rate(assay_cache_requests_total{%(sel)s}[%(range)s]))'),
      number('Hits',
             'percentunit',
             'Share of the requests that were answered from the store.',
             'sum(rate(assay_cache_requests_total{%(sel)s, result="hit"}[%(range)s])) / sum(rate(assay_cache_requests_total{%(sel)s}[%(range)s]))'),
      number('Errors',
             'percentunit',
             'Share of the requests that failed because of an upstream or of Assay.',
             'sum(rate(assay_cache_requests_total{%(sel)s, result=~"error|aborted"}[%(range)s])) / sum(rate(assay_cache_requests_total{%(sel)s, result!="gone"}[%(range)s]))',
             [[0.01, 'orange'], [config.errorShare, 'red']]),
      number('Hits available',
             'percentunit',
             'Lower bound of the share of answers from the store that did not fail; the objective is %g.' % config.slo.hits,
             'min(assay:hits_available:ratio_rate1h{%(sel)s})'),
      number('Age of the head',
             's',
             'Time since an upstream last sent a verified head of the checksum database.',
             'max(time() - (assay_sumdb_refresh_timestamp_seconds{%(sel)s} > 0))',
             [[config.headAgeSeconds / 2, 'orange'], [config.headAgeSeconds, 'red']]),
      number('Findings', 'none', 'Mismatches, conflicts, forks, changed private versions and damaged reads since the start. Each needs an administrator.', |||
        sum(assay_checksum_mismatches_total{%(sel)s}) + sum(assay_private_changed_total{%(sel)s}) + sum(assay_storage_damaged_reads_total{%(sel)s})
          + (sum(assay_sumdb_conflicts_total{%(sel)s}) + sum(assay_sumdb_forks_total{%(sel)s}) or vector(0))
      |||, [[1, 'red']]),
      number('Free disk', 'bytes', 'Free bytes of the file system with the data directory.', 'min(assay_disk_free_bytes{%(sel)s})'),
    ]],
    ['Requests', [
      graph('Requests by result',
            'reqps',
            'What the requests for modules and checksum databases led to. Coalesced: joined a fill for another client.',
            [rates('assay_cache_requests_total', 'result', '{{result}}')],
            true),
      graph('Requests by kind', 'reqps', 'Kind of the requested object.', [rates('assay_cache_requests_total', 'kind', '{{kind}}')], true),
      graph('Time of requests',
            's',
            'From the header of a request to the end of its answer. A large zip takes as long as the client needs to read it.',
            quantiles('assay_http_request_duration_seconds')),
      graph('Time to the first byte',
            's',
            'From the header of a request to the first byte of its answer, of 99 in 100 answers with this result; the objective for hits is %g within %g s.' % [config.slo.firstBytes, config.slo.firstByteSeconds],
            [query('histogram_quantile(0.99, sum by (le, result) (rate(assay_http_first_byte_seconds_bucket{%(sel)s}[%(range)s])))', '{{result}}')]),
      graph('Responses by status', 'reqps', '499 is a client that disconnected before the answer.', [rates('assay_http_responses_total', 'code', '{{code}}')], true),
      graph('Requests in progress', 'none', 'Requests, and objects that are being fetched.', [
        query('sum(assay_http_requests_running{%(sel)s})', 'requests'),
        query('sum(assay_fills_running{%(sel)s})', 'fills'),
      ]),
      graph('Identified clients',
            'reqps',
            'Requests by kind of credential and result. Empty without users, tokens or access rules.',
            [rates('assay_access_requests_total', 'kind, result', '{{kind}} {{result}}')],
            true),
    ]],
    ['Upstreams', [
      graph('Requests to upstreams',
            'reqps',
            'By outcome: breaker_open, remembered and spared were not sent.',
            [rates('assay_upstream_requests_total', 'upstream, outcome', '{{upstream}} {{outcome}}')],
            true),
      graph('Time to an answer',
            's',
            'From a request to the headers of the answer, redirects included.',
            quantiles('assay_upstream_answer_seconds', 'upstream', '{{upstream}}')),
      graph('Clock skew',
            's',
            'By how much our clock is ahead of that of each upstream; behind, if negative.',
            [query('assay_upstream_clock_skew_seconds{%(sel)s}', '{{instance}} {{upstream}}')]) + { fieldConfig+: { defaults+: { min:: null } } },
      graph('Circuit breakers',
            'none',
            '0 closed, 1 half open, 2 open.',
            [query('max by (instance, upstream) (assay_upstream_breaker_state{%(sel)s})', '{{instance}} {{upstream}}')]),
      graph('Received', 'Bps', 'Bytes of response bodies from upstreams.', [query('sum by (upstream) (rate(assay_upstream_received_bytes_total{%(sel)s}[%(range)s]))', '{{upstream}}')]),
      graph('Retries and broken transfers', 'reqps', 'Repeated requests, and bodies that were interrupted or stalled.', [
        query('sum by (upstream) (rate(assay_upstream_retries_total{%(sel)s}[%(range)s]))', '{{upstream}} retries'),
        query('sum by (upstream) (rate(assay_upstream_broken_transfers_total{%(sel)s}[%(range)s]))', '{{upstream}} broken'),
      ]),
      graph('Fills', 's', 'Time to fetch, verify and store an object.', quantiles('assay_fill_duration_seconds', 'kind', '{{kind}}')),
    ]],
    ['Places and predictions', [
      graph('Places in use', 'none', 'Work whose concurrency is limited.', [query('sum by (places) (assay_places_running{%(sel)s})', '{{places}}')]),
      graph('Requests that wait for a place', 'none', 'They get 503 if they wait too long.', [query('sum by (places) (assay_places_waiting{%(sel)s})', '{{places}}')]),
      graph('Refused and yielded places', 'reqps', 'Refused: a client got 503. Yielded: a fetch was stopped to make room.', [
        query('sum by (places, reason) (rate(assay_places_refused_total{%(sel)s}[%(range)s]))', '{{places}} {{reason}}'),
        query('sum by (places, reason) (rate(assay_places_yielded_total{%(sel)s}[%(range)s]))', '{{places}} {{reason}}'),
      ]),
      graph('Predicted files', 'reqps', 'Files that were fetched because the go command would probably request them next, and what became of them.', [
        query('sum(rate(assay_predicted_total{%(sel)s}[%(range)s]))', 'predicted'),
        query('sum(rate(assay_predicted_used_total{%(sel)s}[%(range)s]))', 'used'),
        query('sum(rate(assay_predicted_wasted_total{%(sel)s}[%(range)s]))', 'wasted'),
      ]),
      graph('Predicted bytes', 'Bps', 'The same in bytes.', [
        query('sum(rate(assay_predicted_bytes_total{%(sel)s}[%(range)s]))', 'predicted'),
        query('sum(rate(assay_predicted_used_bytes_total{%(sel)s}[%(range)s]))', 'used'),
        query('sum(rate(assay_predicted_wasted_bytes_total{%(sel)s}[%(range)s]))', 'wasted'),
      ]),
    ]],
    ['Checksum databases', [
      graph('Lookups', 'reqps', 'Lookups by result.', [rates('assay_sumdb_lookups_total', 'database, result', '{{database}} {{result}}')], true),
      graph('Tiles', 'reqps', 'Tiles by result.', [rates('assay_sumdb_tiles_total', 'database, result', '{{database}} {{result}}')], true),
      graph('Heads', 'reqps', 'Signed heads that were checked, by result.', [query('sum by (database, result) (rate(assay_sumdb_heads_total{%(sel)s}[%(range)s]))', '{{database}} {{result}}')]),
      graph('Records', 'none', 'Records under the newest verified head.', [query('max by (database) (assay_sumdb_tree_size{%(sel)s})', '{{database}}')]),
      graph('Age of the head', 's', 'Time since an upstream last sent a head that verified, and since the newest head was accepted.', [
        query('max by (database) (time() - (assay_sumdb_refresh_timestamp_seconds{%(sel)s} > 0))', '{{database}} sent'),
        query('max by (database) (time() - (assay_sumdb_head_timestamp_seconds{%(sel)s} > 0))', '{{database}} accepted'),
      ]),
      graph('Frozen, forks and conflicts', 'none', 'All should be 0.', [
        query('max by (database) (assay_sumdb_frozen{%(sel)s})', '{{database}} frozen'),
        query('sum by (database) (assay_sumdb_forks_total{%(sel)s})', '{{database}} forks'),
        query('sum by (database) (assay_sumdb_conflicts_total{%(sel)s})', '{{database}} conflicts'),
      ]),
    ]],
    ['Private modules', [
      graph('Own log', 'none', 'Entries under the newest signed head, and whether the log refuses to sign (1).', [
        query('max by (instance) (assay_log_entries{%(sel)s})', '{{instance}} entries'),
        query('max by (instance) (assay_log_frozen{%(sel)s})', '{{instance}} frozen'),
      ]),
      graph('Appends to the own log', 'reqps', 'By result; a conflict is a changed private version.', [query('sum by (result) (rate(assay_log_appends_total{%(sel)s}[%(range)s]))', '{{result}}')]),
      graph('Misconfigured clients',
            'reqps',
            'Requests of clients that are not configured for private modules; /-/leaks lists them.',
            [query('sum by (kind) (rate(assay_leak_requests_total{%(sel)s}[%(range)s]))', '{{kind}}')]),
      graph('Version control', 'reqps', 'Operations on repositories, by outcome.', [rates('assay_vcs_runs_total', 'command, outcome', '{{command}} {{outcome}}')], true),
      graph('Time of version control', 's', 'Includes the wait for a place.', quantiles('assay_vcs_run_seconds', 'command', '{{command}}')),
      graph('Clones', 'bytes', 'Disk space of the clones of repositories.', [query('sum by (instance) (assay_vcs_cache_bytes{%(sel)s})', '{{instance}}')]),
    ]],
    ['Storage', [
      graph('Objects', 'none', 'Objects in the store, and blobs that wait to be deleted.', [
        query('sum by (instance) (assay_storage_objects{%(sel)s})', '{{instance}} objects'),
        query('sum by (instance) (assay_storage_orphans{%(sel)s})', '{{instance}} orphans'),
      ]),
      graph('Bytes', 'bytes', 'Sizes of the files of the store, free space within them, and the objects.', [
        query('sum by (file) (assay_storage_file_bytes{%(sel)s})', '{{file}} file'),
        query('sum by (file) (assay_storage_file_free_bytes{%(sel)s})', '{{file}} free'),
        query('sum(assay_storage_object_bytes{%(sel)s})', 'objects'),
      ]),
      graph('Disk', 'bytes', 'The file system with the data directory.', [
        query('min by (instance) (assay_disk_free_bytes{%(sel)s})', '{{instance}} free'),
        query('min by (instance) (assay_disk_size_bytes{%(sel)s})', '{{instance}} size'),
      ]),
      graph('Objects created and deleted', 'ops', 'By the place of their content.', [
        query('sum by (kind) (rate(assay_storage_objects_created_total{%(sel)s}[%(range)s]))', 'created {{kind}}'),
        query('sum(rate(assay_storage_objects_deleted_total{%(sel)s}[%(range)s]))', 'deleted'),
      ]),
      graph('Commits', 's', 'Time of one durable commit.', quantiles('assay_storage_commit_seconds', 'file', '{{file}}')),
      graph('Damage', 'none', 'Reads of bytes that have changed on disk, and objects that were dropped to be fetched again.', [
        query('sum by (instance) (assay_storage_damaged_reads_total{%(sel)s})', '{{instance}} damaged'),
        query('sum by (instance) (assay_store_dropped_total{%(sel)s})', '{{instance}} dropped'),
      ]),
    ]],
    ['The limit of the disk', [
      graph('Data directory', 'bytes', 'What the data directory takes, the limit of it (0: none), and the objects that may be evicted. With a bucket these are local copies.', [
        query('sum by (instance) (assay_disk_limit_used_bytes{%(sel)s})', '{{instance}} used'),
        query('min by (instance) (assay_disk_limit_bytes{%(sel)s})', '{{instance}} limit'),
        query('sum by (instance) (assay_disk_removable_bytes{%(sel)s})', '{{instance}} removable'),
      ]),
      graph('Evicted', 'Bps', 'Bytes of objects that were evicted, for room or because of their age.', [query('sum by (instance) (rate(assay_evicted_bytes_total{%(sel)s}[%(range)s]))', '{{instance}}')]),
      graph('Evicted, kept, passed, refused', 'ops', 'Evicted: objects. Kept: no upstream has them any more. Passed: served and not stored. Refused: no room, and an error for the client where there is no bucket.', [
        query('sum(rate(assay_evictions_total{%(sel)s}[%(range)s]))', 'evicted'),
        query('sum(rate(assay_disk_unobtainable_total{%(sel)s}[%(range)s]))', 'kept'),
        query('sum(rate(assay_disk_limit_passed_total{%(sel)s}[%(range)s]))', 'passed'),
        query('sum(rate(assay_disk_limit_refused_total{%(sel)s}[%(range)s]))', 'refused'),
      ]),
    ]],
    ['The bucket and local copies', [
      graph('Requests to the bucket', 'reqps', 'By operation.', [query('sum by (operation) (rate(assay_bucket_requests_total{%(sel)s}[%(range)s]))', '{{operation}}')], true),
      graph('Failed requests to the bucket', 'reqps', 'Refused, busy, unreachable, silent; unsent: the store did not answer the last ones.', [
        query('sum by (result) (rate(assay_bucket_requests_total{%(sel)s, result=~"refused|busy|unreachable|silent|unsent"}[%(range)s]))', '{{result}}'),
      ]),
      graph('Time of requests to the bucket', 's', 'To the headers of the answer, of 9 in 10 requests.', [
        query('histogram_quantile(0.9, sum by (le, operation) (rate(assay_bucket_answer_seconds_bucket{%(sel)s}[%(range)s])))', '{{operation}}'),
      ]),
      graph('The object store answers', 'none', '1, or 0 while one request at a time is sent to find out.', [query('min by (instance) (assay_bucket_answers{%(sel)s})', '{{instance}}')]),
      graph('The bucket was exchanged', 'none', '1: it was emptied, or another one has its name, and the server reads and writes nothing there.', [query('max by (instance) (assay_bucket_exchanged{%(sel)s})', '{{instance}}')]),
      graph('Objects by place', 'ops', 'Hit: on the local disk. Shared: on its way from the bucket. Miss: in the bucket. Error: absent, damaged, or the bucket did not answer.', [
        query('sum by (result) (rate(assay_tier_opens_total{%(sel)s}[%(range)s]))', '{{result}}'),
      ], true),
      graph('Read from the bucket', 'Bps', 'Bytes of contents.', [query('sum by (instance) (rate(assay_tier_bucket_bytes_total{%(sel)s}[%(range)s]))', '{{instance}}')]),
      graph('Contents for the local disk', 'ops', 'Stored, or why not: skipped (no memory, or too much under way), refused (no room), outdated, error.', [
        query('sum by (result) (rate(assay_tier_stores_total{%(sel)s}[%(range)s]))', '{{result}}'),
      ], true),
      graph('Errors of the local disk', 'ops', 'The bucket serves instead.', [query('sum by (instance, op) (rate(assay_tier_local_errors_total{%(sel)s}[%(range)s]))', '{{instance}} {{op}}')]),
      graph('Copies under way', 'none', 'Contents that are being read from the bucket, or stored.', [query('sum by (instance) (assay_tier_fills_running{%(sel)s})', '{{instance}}')]),
    ]],
    ['Servers that share a bucket', [
      graph('Age of the news', 's', 'Time since a server last read what the others have changed; it reads each second.', [
        query('time() - (assay_news_read_timestamp_seconds{%(sel)s} > 0)', '{{instance}}'),
      ]),
      graph('News missed and failed', 'ops', 'Missed: everything was looked at. Failed: a change could not be taken over, and is tried again.', [
        query('sum by (instance) (rate(assay_news_missed_total{%(sel)s}[%(range)s]))', '{{instance}} missed'),
        query('sum by (instance) (rate(assay_news_failed_total{%(sel)s}[%(range)s]))', '{{instance}} failed'),
      ]),
      graph('Fetches by lease', 'ops', 'Own: this server fetched. Shared: another one did. Late and none: both did.', [
        query('sum by (result) (rate(assay_leases_total{%(sel)s}[%(range)s]))', '{{result}}'),
      ], true),
      graph('Fetches that wait for another server', 'none', 'By server.', [query('sum by (instance) (assay_leases_waiting{%(sel)s})', '{{instance}}')]),
      graph('Own log overtaken', 'ops', 'Another server wrote to the own log first.', [query('sum by (instance) (rate(assay_log_overtaken_total{%(sel)s}[%(range)s]))', '{{instance}}')]),
      graph('Versions', 'none', 'Servers by the version of the program.', [query('count by (version) (assay_build_info{%(sel)s})', '{{version}}')], true),
    ]],
    ['The process', [
      graph('Memory budget',
            'percentunit',
            'Used share of each part of the budget.',
            [query('max by (share) (assay_memory_used_bytes{%(sel)s} / assay_memory_budget_bytes{%(sel)s})', '{{share}}')]),
      graph('Refused', 'reqps', 'Reservations of memory, and connections, that were refused.', [
        query('sum by (share) (rate(assay_memory_refused_total{%(sel)s}[%(range)s]))', 'memory {{share}}'),
        query('sum(rate(assay_http_connections_refused_total{%(sel)s}[%(range)s]))', 'connections'),
      ]),
      graph('Memory', 'bytes', 'Resident memory with the pages of files, and without them (Linux).', [
        query('sum by (instance) (process_resident_memory_bytes{%(sel)s})', '{{instance}} resident'),
        query('sum by (instance) (assay_process_anonymous_bytes{%(sel)s})', '{{instance}} anonymous'),
      ]),
      graph('Processor', 'none', 'Processors in use.', [query('sum by (instance) (rate(process_cpu_seconds_total{%(sel)s}[%(range)s]))', '{{instance}}')]),
      graph('File descriptors and goroutines', 'none', 'In use.', [
        query('sum by (instance) (process_open_fds{%(sel)s})', '{{instance}} descriptors'),
        query('sum by (instance) (go_goroutines{%(sel)s})', '{{instance}} goroutines'),
      ]),
      graph('Log lines dropped, panics, failed reloads', 'none', 'Since the start; all should be 0.', [
        query('sum by (kind) (assay_logging_dropped_lines_total{%(sel)s})', 'dropped {{kind}}'),
        query('sum(assay_http_panics_total{%(sel)s}) + sum(assay_fill_panics_total{%(sel)s})', 'panics'),
        query('sum(1 - assay_config_last_reload_successful{%(sel)s})', 'failed reloads'),
      ]),
    ]],
  ],

  // placed puts panels side by side, in lines of 24 columns from y on.
  local placed(panels, y) = std.foldl(
    function(state, p)
      local fits = state.x + p.gridPos.w <= 24;
      local x = if fits then state.x else 0;
      local top = if fits then state.y else state.y + p.gridPos.h;
      {
        x: x + p.gridPos.w,
        y: top,
        bottom: top + p.gridPos.h,
        panels: state.panels + [p { gridPos+: { x: x, y: top } }],
      },
    panels,
    { x: 0, y: y, bottom: y, panels: [] }
  ),

  local all = std.foldl(
    function(state, row)
      local line = placed(row[1], state.y + 1);
      {
        y: line.bottom,
        panels: state.panels + [{
          type: 'row',
          title: row[0],
          collapsed: false,
          panels: [],
          gridPos: { x: 0, y: state.y, w: 24, h: 1 },
        }] + line.panels,
      },
    rows,
    { y: 0, panels: [] }
  ).panels,

  local servers(name, label, expr) = {
    type: 'query',
    name: name,
    label: label,
    datasource: datasource,
    query: expr,
    refresh: 2,
    includeAll: true,
    multi: true,
    current: { text: 'All', value: '$__all' },
    options: [],
  },

  grafanaDashboards+:: {
    'assay.json': {
      uid: config.dashboard.uid,
      title: config.dashboard.title,
      description: 'A Go module proxy that serves nothing it has not proved.',
      tags: config.dashboard.tags,
      schemaVersion: 39,
      editable: true,
      graphTooltip: 1,
      time: { from: 'now-6h', to: 'now' },
      refresh: config.dashboard.refresh,
      timezone: 'browser',
      annotations: { list: [] },
      templating: {
        list: [
          {
            type: 'datasource',
            name: 'datasource',
            label: 'Data source',
            query: 'prometheus',
            current: { text: 'default', value: 'default' },
            options: [],
          },
          servers('job', 'Job', 'label_values(assay_build_info, job)'),
          servers('instance', 'Server', 'label_values(assay_build_info{job=~"$job"}, instance)'),
        ],
      },
      panels: [all[i] { id: i + 1 } for i in std.range(0, std.length(all) - 1)],
    },
  },
}
