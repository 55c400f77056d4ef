{
  _config+:: {
    // Selects the series of all servers.
    selector: 'job="assay"',

    // The page that says what to do; %s is the anchor of an alert.
    runbookURL: 'https://github.com/assay-proxy/assay/blob/main/docs/runbook.md#%s',

    // Objectives. The share of requests for stored objects that are answered; the share of those
    // answers whose first byte comes within so many seconds, which must be a bucket of
    // assay_http_first_byte_seconds; and the share of all requests that are complete within so many
    // seconds, which must be a bucket of assay_http_request_duration_seconds.
    slo: {
      hits: 0.999,
      firstBytes: 0.99,
      firstByteSeconds: 0.1,
      answers: 0.99,
      answerSeconds: 1,
    },

    // Limits of alerts.
    errorShare: 0.05,  // of the requests of a server
    headAgeSeconds: 3600,  // since an upstream last sent a verified head
    diskFreeBytes: 1024 * 1024 * 1024,  // two zips of the maximum size
    diskFreeShare: 0.1,  // of a disk on which diskFreeBytes is more than that
    storeUsedShare: 0.9,  // of what the setting store-limit leaves to the objects
    certificateDays: 7,  // until the certificate expires; less than the time for which one is valid when it is renewed
    clockSkewSeconds: 60,  // between our clock and that of each upstream
    bucketErrorShare: 0.05,  // of the requests to the bucket
    bucketGetSeconds: 1,  // until the answer of the bucket to nine of ten reads begins
    newsSeconds: 60,  // since a replica last read the news of the others, which it does each second
    leaseShare: 0.1,  // of the fetches that replicas do once together: those that more than one does
    overtakenShare: 5,  // for each entry of the own log: how often another replica wrote first

    dashboard: {
      uid: 'assay-overview',
      title: 'Assay',
      tags: ['assay'],
      refresh: '30s',
    },
  },
}
