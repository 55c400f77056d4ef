package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// sharedLogFlags are the settings of commands for the own log, in the data directory or in a bucket.
var sharedLogFlags = []string{"data", "log-guard", "store", "log-key", "log-name", "ca-file"}

// withSharedLog opens the own log in the bucket for f, for reading. The servers are told of evidence that f finds.
func withSharedLog(ctx context.Context, c config.Config, f func(own *pinlog.Log) error) error {
	return withSharedConfig(ctx, c, false, func(own pinlog.Config) error {
		found := false
		own.ReadOnly, own.Bucket.Announce = true, func() { found = true }
		log, err := pinlog.Open(ctx, own)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no log in %s: %w; if there never was one, run assay log create; "+
				"otherwise put back the bucket, or check that store names the right bucket and prefix", own.Bucket.Place, err)
		}
		if err != nil {
			return err
		}
		err = errors.Join(f(log), log.Close())
		if found {
			err = errors.Join(err, daemon.TellLog(ctx, own.Bucket.Store))
		}
		return err
	})
}

// withSharedConfig calls f with the configuration of the own log in the bucket. With create, a bucket without a store
// gets one.
func withSharedConfig(ctx context.Context, c config.Config, create bool, f func(pinlog.Config) error) error {
	bucket, err := daemon.OpenBucket(ctx, c, s3.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer bucket.Close()
	id, err := bucket.Identity(ctx, create)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	own, guard, err := daemon.SharedLogConfig(ctx, c, bucket)
	if err != nil {
		return err
	}
	if guard != nil {
		defer guard.Close()
	}
	own.Bucket.ID = id
	return f(own)
}

// withOwnLog opens our own log for f, for reading, also while a server has it open. store is the
// store beside it; with nil, what it has of the log is not compared.
func withOwnLog(ctx context.Context, c config.Config, store storage.Store, f func(own *pinlog.Log) error) error {
	if daemon.SharesLog(c) {
		return withSharedLog(ctx, c, f)
	}
	config := daemon.OwnLogConfig(c)
	config.ReadOnly, config.Store = true, store
	own, err := pinlog.Open(ctx, config)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no log in %s yet; the first start of assay serve creates it", config.Dir)
	}
	if err != nil {
		return err
	}
	defer own.Close()
	return f(own)
}

// withStore calls f with the store beside our own log, nil if there is none. The error is
// storage.ErrInUse while a server uses it.
func withStore(data string, o bolt.Options, f func(storage.Store) error) error {
	o.LockTimeout = time.Millisecond
	o.Outdated = anyLayout
	db, err := bolt.Open(data, &o)
	if errors.Is(err, fs.ErrNotExist) {
		return f(nil)
	}
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}
