// Package s3 is a storage engine in a bucket of an S3-compatible object store, which any number of
// processes may share.
//
// Below the prefix of the store, o/KEY is the record of an object, s/NAME is a state, and c/ has
// contents that are too large for a record. A record and a state are created and changed by
// conditional requests alone (RFC 9110, 13.1: If-None-Match and If-Match), so the bucket decides all
// races. A content has a random name, is complete before the record that names it, and never changes.
//
// Nothing that is read is believed: a record has a checksum and its own key, and a content has a
// checksum for each 256 KiB, which the record keeps.
package s3

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/memory"
)

// DB is a store in a bucket.
type DB struct {
	records        records
	endpoint       string
	spool          string
	readers, large *memory.Budget
	writers        *memory.Budget
	log            *slog.Logger
	closed         atomic.Bool
	strange        atomic.Pointer[awayError] // nil unless the bucket has another store, see Confirm
}

// Open returns the store that o describes. It sends no request: Probe shows whether the bucket can be
// used.
func Open(ctx context.Context, o Options) (*DB, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := sweep(o.Spool); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	b, err := newBucket(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	log := o.Logger
	if log == nil {
		log = slog.Default()
	}
	return &DB{records: records{b}, endpoint: o.Endpoint, spool: o.Spool, readers: o.Readers, large: o.Large, writers: o.Writers, log: log}, nil
}

// Alone makes db check the conditions of its requests itself, and send none: for an object store whose Report has
// Unconditional. It is safe only if no other process uses the store, and must be called before any other method but
// Probe.
func (db *DB) Alone() { db.records.alone = newAlone() }

// Metrics implements storage.Measured.
func (db *DB) Metrics() []prometheus.Collector {
	w := db.records.watch
	exchanged := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "assay_bucket_exchanged",
		Help: "Whether the bucket was emptied or exchanged (1): it does not have the store any more with which this server began, and until it has, nothing there is read or written.",
	}, func() float64 {
		if db.strange.Load() != nil {
			return 1
		}
		return 0
	})
	return []prometheus.Collector{w.requests, w.answers, w.times, exchanged}
}

// Close implements storage.Store.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return fs.ErrClosed
	}
	return nil
}

// check returns the error of an operation on a closed store, on one that is not there any more, or with a context that
// has ended.
func (db *DB) check(ctx context.Context) error {
	if db.closed.Load() {
		return fs.ErrClosed
	}
	if strange := db.strange.Load(); strange != nil {
		return strange
	}
	return ctx.Err()
}
