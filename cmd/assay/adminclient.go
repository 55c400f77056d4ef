package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// withAdmin calls f with a client of the server that is using the data directory, or of one
// in this process if it is not in use.
func withAdmin(ctx context.Context, c config.Config, f func(*admin.Client) error) error {
	if err := admin.CheckRestored(c.Data); err != nil {
		return err
	}
	db, err := bolt.Open(c.Data, &bolt.Options{Existing: true, LockTimeout: time.Millisecond})
	if errors.Is(err, storage.ErrInUse) {
		client, err := admin.Dial(ctx, c.Data)
		if err != nil {
			return err
		}
		return errors.Join(f(client), client.Close())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return noStore(c.Data)
	}
	if err != nil {
		return err
	}
	client := admin.Local(&admin.Server{
		Data: c.Data, Tokens: c.TokenFile(), Store: db, Version: version(), Logger: slog.New(slog.DiscardHandler),
	})
	return errors.Join(f(client), client.Close(), db.Close())
}
