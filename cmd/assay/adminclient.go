package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// reading calls f with a client of the server that uses the data directory. If no server uses it,
// or all of them only read, the client belongs to a server in this process, which only reads, too.
func reading(ctx context.Context, c config.Config, f func(*admin.Client) error) error {
	if c.Store != "" {
		return withBucket(ctx, c, false, f)
	}
	return withAdmin(ctx, c, bolt.Options{ReadOnly: true}, f)
}

// changing is reading for commands that change the store.
func changing(ctx context.Context, c config.Config, f func(*admin.Client) error) error {
	if c.Store != "" {
		return withBucket(ctx, c, true, f)
	}
	return withAdmin(ctx, c, bolt.Options{Existing: true}, f)
}

// adminPatience is how long a command waits for a server that is just starting, or for
// another command.
const adminPatience = 3 * time.Second

func withAdmin(ctx context.Context, c config.Config, o bolt.Options, f func(*admin.Client) error) error {
	if err := admin.CheckRestored(c.Data); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, adminPatience)
	defer cancel()
	o.LockTimeout = time.Millisecond
	for {
		db, err := bolt.Open(c.Data, &o)
		if err == nil {
			client := admin.Local(&admin.Server{Data: c.Data, Store: db, Version: thisBuild().Version, Logger: slog.New(slog.DiscardHandler)})
			return errors.Join(f(client), client.Close(), db.Close())
		}
		if errors.Is(err, fs.ErrNotExist) {
			return noStore(c.Data)
		}
		if denied := new(fs.PathError); errors.Is(err, fs.ErrPermission) && errors.As(err, &denied) {
			// The store's own advice, to make its files writable, would open the key of the log.
			return fmt.Errorf("%w; run this command as the server's user, or as root", denied)
		}
		if !errors.Is(err, storage.ErrInUse) {
			return err
		}
		client, err := admin.Dial(ctx, c.Data)
		if err == nil {
			return errors.Join(f(client), client.Close())
		}
		if errors.Is(err, fs.ErrPermission) {
			return err
		}
		select {
		case <-time.After(adminPatience / 10):
		case <-patient.Done():
			return err
		}
	}
}
