package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// Create implements storage.Store. It takes the memory for an object of more than 32 KiB from
// Options.Writers, and waits for it until ctx ends.
func (db *DB) Create(ctx context.Context, info storage.Info, r io.Reader) error {
	free := func(tx *bbolt.Tx) error {
		if db.journal.held(tx, info.Key) != nil {
			return fs.ErrExist
		}
		return nil
	}
	err := info.Check()
	if err == nil {
		err = db.meta.view(free) // before r is read
	}
	if err == nil {
		err = db.writer.create(ctx, info, r, nil)
	}
	if err != nil {
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	return nil
}

// Replace implements storage.Store.
func (db *DB) Replace(ctx context.Context, info storage.Info, r io.Reader) error {
	if err := db.writer.create(ctx, info, r, vacate); err != nil {
		return fmt.Errorf("replace %.200q: %w", info.Key, err)
	}
	return nil
}

// create stores an object under a key that claim makes free.
func (w *writer) create(ctx context.Context, info storage.Info, r io.Reader, claim claim) error {
	if err := info.Check(); err != nil {
		return err
	}
	if w.meta.readOnly {
		return storage.ErrReadOnly // before reading r
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if info.Size <= inlineMax {
		return w.createInline(ctx, info, r, claim)
	}
	d := w.draft(ctx, info.Size)
	defer d.Close()
	if err := d.fill(r); err != nil {
		return err
	}
	return d.commit(ctx, info, claim)
}

func (w *writer) createInline(ctx context.Context, info storage.Info, r io.Reader, claim claim) error {
	content := make([]byte, info.Size)
	if err := readFull(r, content); err != nil {
		return err
	}
	if err := errors.Join(expectEnd(r), ctx.Err()); err != nil {
		return err
	}
	return w.putInline(info, content, claim)
}
