package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3"
)

// withBucket calls f, which may change the store if change is set, with a client for the store in the bucket of the setting store: of the server that uses the data
// directory, if that uses the same store, or of a server in this process. Other replicas may run meanwhile.
func withBucket(ctx context.Context, c config.Config, change bool, f func(*admin.Client) error) error {
	db, err := existingBucket(ctx, c)
	if err != nil {
		return err
	}
	defer db.Close()
	if client, err := admin.Dial(ctx, c.Data); err == nil {
		defer client.Close()
		if place, err := client.Place(ctx); err == nil && place == db.Place() {
			return f(client)
		}
	}
	if change {
		if err := daemon.CheckChange(ctx, db); err != nil {
			return err
		}
	}
	log := slog.New(slog.DiscardHandler)
	board := news.New(db, log)
	client := admin.Local(&admin.Server{
		Data: c.Data, Store: db, Place: db.Place(), News: board, Version: thisBuild().Version, Logger: log,
		Forget:       func(items []content.Item) error { return content.TellPurged(ctx, board, items) },
		Collect:      daemon.Collect(db),
		KeepsChanged: func(ctx context.Context) error { return daemon.TellKept(ctx, board) },
	})
	return errors.Join(f(client), client.Close())
}

// existingBucket opens the store in the bucket of the setting store.
func existingBucket(ctx context.Context, c config.Config) (*s3.DB, error) {
	db, err := daemon.OpenBucket(ctx, c, s3.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if _, err := db.Identity(ctx, false); err != nil {
		place := db.Place()
		err = errors.Join(err, db.Close())
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no store in %s; the first start of assay serve makes it", place)
		}
		return nil, err
	}
	return db, nil
}
