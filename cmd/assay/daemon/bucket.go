package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/storage/s3"
)

// probeTime is how long the probe of an object store may take.
const probeTime = time.Minute

// OpenBucket returns the store in the bucket of the setting store, with the budgets and the logger of o. It sends no
// request.
func OpenBucket(ctx context.Context, c config.Config, o s3.Options) (*s3.DB, error) {
	place, err := s3.ParseURL(c.Store)
	if err != nil {
		return nil, err
	}
	if place.RootCAs, err = fetch.Roots(c.CAFile); err != nil {
		return nil, err
	}
	place.Spool, place.Readers, place.Writers, place.Logger = o.Spool, o.Readers, o.Writers, o.Logger
	return s3.Open(ctx, place)
}

// unconditionalState is the name of a state that a store has if its server has found that the object store does not keep
// conditions: then no other process may change it.
const unconditionalState = "unconditional"

// CheckChange returns an error if only the server of a store in a bucket may change it.
func CheckChange(ctx context.Context, db *s3.DB) error {
	_, err := db.State(ctx, unconditionalState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("the object store of %s does not keep conditions, so only the one server may change what is there; "+
			"run this command on its machine while it runs, as its user and with its --data", db.Place())
	}
	return err
}

// openBucket opens the store in the bucket for a server: it probes the object store, and makes the store if the bucket
// has none.
func openBucket(ctx context.Context, c config.Config, budgets shares, log *slog.Logger) (db *s3.DB, id string, err error) {
	spool := filepath.Join(c.Data, "drafts")
	if err := durable.MakeDir(spool, 0o700); err != nil {
		return nil, "", err
	}
	db, err = OpenBucket(ctx, c, s3.Options{Spool: spool, Readers: budgets.bucket, Large: budgets.bucketLarge, Writers: budgets.store, Logger: log})
	if err != nil {
		return nil, "", err
	}
	if id, err = PrepareBucket(ctx, db, c.SingleReplica, log); err != nil {
		return nil, "", errors.Join(err, db.Close())
	}
	return db, id, nil
}

// PrepareBucket probes an object store, and returns the ID of the store in it, which it makes if there is none. single says that
// no other process uses the store.
func PrepareBucket(ctx context.Context, db *s3.DB, single bool, log *slog.Logger) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	report, err := db.Probe(ctx)
	if errors.Is(err, context.Canceled) {
		return "", errors.New("stopped while the object store was probed")
	}
	if err != nil {
		return "", fmt.Errorf("the store in %s cannot be used: %w", db.Place(), err)
	}
	if err := judge(report, single); err != nil {
		return "", err
	}
	if len(report.Unconditional) > 0 {
		log.Warn("the object store does not keep conditions: a second server that uses the bucket would destroy data, and nothing can notice that",
			"server", report.Server, "broken", report.Unconditional)
		db.Alone()
		if err := db.SetState(ctx, unconditionalState, nil); err != nil {
			return "", err
		}
	} else if err := db.DeleteState(ctx, unconditionalState); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err // it may be there since the object store, or the server in front of it, was replaced by a better one
	}
	for _, weak := range report.Weak {
		log.Warn("the object store has a weakness", "server", report.Server, "weakness", weak)
	}
	if report.Left > 0 {
		log.Warn("the object store does not permit deletions: what is deleted, and each start, leaves keys in the bucket", "left", report.Left)
	}
	if id, err = db.Identity(ctx, true); err != nil {
		return "", err
	}
	rules, err := db.Expirations(ctx)
	if err != nil {
		log.Info("the rules of the bucket that delete objects cannot be read; make sure that none is about the store", "err", err)
	}
	for _, rule := range rules {
		log.Warn("a lifecycle rule of the bucket deletes or archives what the store needs; remove it, or restrict it to other keys", "rule", rule)
	}
	log.Info("store in a bucket", "place", db.Place(), "server", report.Server, "single_replica", single)
	return id, nil
}

// judge returns why an object store cannot be used.
func judge(report s3.Report, single bool) error {
	switch {
	case len(report.Broken) > 0:
		return fmt.Errorf("%w; use another object store, or none: without the setting store, everything is in the data directory", report.Err())
	case len(report.Unconditional) > 0 && !single:
		return fmt.Errorf("%w; use another object store, or, if this is the only server that uses the bucket, say so with --single-replica", report.Err())
	}
	return nil
}

// Collect returns the function of administrators' commands that deletes from a bucket what nothing refers to.
func Collect(db *s3.DB) func(ctx context.Context, wait time.Duration) (admin.Collected, error) {
	return func(ctx context.Context, wait time.Duration) (admin.Collected, error) {
		done, err := db.Collect(ctx, wait)
		if err != nil {
			return admin.Collected{}, err
		}
		leases, err := content.SweepLeases(ctx, db)
		return admin.Collected{Contents: done.Contents, Marked: done.Marked, Deleted: done.Deleted, Uploads: done.Uploads, Leases: leases}, err
	}
}
