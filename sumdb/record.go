package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/notfound"
)

// records looks up records in the store, and else at upstream; those of upstream are proved to be
// under our head.
type records struct {
	client   *client
	objects  *objects
	follower *follower
	freezer  *freezer
	hashes   *hashTiles
	memory   *memory.Budget
	metrics  *metrics
	log      *slog.Logger
}

// heldAt returns the record of mod from the store. path is the path of its lookup. The error is
// fs.ErrNotExist if it is not held.
func (r *records) heldAt(ctx context.Context, path string, mod module.Version) (Record, error) {
	data, err := r.objects.read(ctx, path)
	if err != nil {
		return Record{}, fmt.Errorf("record of %s in %s: %w", mod, r.client.name, err)
	}
	record, rest, err := parseRecord(data, mod)
	if err != nil || len(rest) > 0 {
		r.log.Error("stored record is damaged; it will be fetched again", "key", r.objects.key(path), "err", err)
		return Record{}, r.objects.remove(ctx, path)
	}
	return record, nil
}

func (r *records) lookup(ctx context.Context, mod module.Version) (Record, string, error) {
	path, err := LookupPath(mod)
	if err != nil {
		return Record{}, "", err
	}
	record, err := r.heldAt(ctx, path, mod)
	if !errors.Is(err, fs.ErrNotExist) {
		return record, "hit", err
	}
	if err := r.freezer.check(); err != nil {
		return Record{}, "", fmt.Errorf("lookup of %s: %w", mod, err)
	}
	if !r.client.connected() {
		return Record{}, "", r.notHeld(mod)
	}
	record, err = share(ctx, r.client, path, lookupTime, func(ctx context.Context) (Record, error) {
		// Another flight may have stored it since.
		if record, err := r.heldAt(ctx, path, mod); !errors.Is(err, fs.ErrNotExist) {
			return record, err
		}
		return r.fetchRecord(ctx, path, mod)
	})
	return record, "miss", err
}

// notHeld returns the error for a record that is not held while there is no upstream. It says how
// old the mirror is.
func (r *records) notHeld(mod module.Version) error {
	h := r.follower.head.Load()
	if h == nil {
		return fmt.Errorf("%s: this mirror of %s is empty and has no upstream: %w", mod, r.client.name, notfound.Stated)
	}
	return fmt.Errorf("%s: not in this mirror of %s, which has no upstream and ends at tree %d of %s: %w",
		mod, r.client.name, h.tree.N, h.time.UTC().Format(time.DateOnly), notfound.Stated)
}

// lookupMemory is how much memory a lookup takes: for upstream's response, while it grows, and for
// the tiles of its proof.
const lookupMemory = 2*textLimit + 8*fullTile

// fetchRecord fetches the record of mod from upstream, proves it and stores it.
func (r *records) fetchRecord(ctx context.Context, path string, mod module.Version) (Record, error) {
	held := r.memory.HoldFor(ctx)
	if err := held.Grow(ctx, lookupMemory); err != nil {
		return Record{}, err
	}
	defer held.Free()
	msg, err := r.client.fetch(ctx, path, textLimit)
	if err != nil {
		return Record{}, fmt.Errorf("lookup of %s in %s: %w", mod, r.client.name, err)
	}
	record, signed, err := parseRecord(msg, mod)
	if err != nil {
		return Record{}, err
	}
	if err := r.follower.accept(ctx, signed, path); err != nil {
		return Record{}, fmt.Errorf("lookup of %s: %w", mod, err)
	}
	if err := r.proveIncluded(ctx, record, mod); err != nil {
		return Record{}, err
	}
	return r.keep(ctx, path, record, mod)
}

// proveIncluded proves that record is in the tree of our head.
func (r *records) proveIncluded(ctx context.Context, record Record, mod module.Version) error {
	h := r.follower.head.Load()
	if record.ID >= h.tree.N {
		return fmt.Errorf("%w: record %d of %s is beyond the tree of %d that %s shows with it",
			ErrInvalid, record.ID, mod, h.tree.N, r.client.name)
	}
	tile, err := r.hashes.prove(ctx, h, place{0, record.ID >> TileHeight})
	if err != nil {
		return fmt.Errorf("record %d of %s: %w", record.ID, mod, err)
	}
	at := int(record.ID&(1<<TileHeight-1)) * tlog.HashSize
	if leaf := tlog.RecordHash(record.Text); string(tile[at:at+tlog.HashSize]) != string(leaf[:]) {
		return fmt.Errorf("%w: record %d of %s is not what is in the tree of %s", ErrInvalid, record.ID, mod, r.client.name)
	}
	return nil
}

// keep stores record, which is proved. If a record is stored already, that one stays; a record with
// other hashes is refused, with evidence.
func (r *records) keep(ctx context.Context, path string, record Record, mod module.Version) (Record, error) {
	data, err := tlog.FormatRecord(record.ID, record.Text)
	if err != nil {
		return Record{}, fmt.Errorf("record of %s: %w", mod, err)
	}
	err = r.objects.create(ctx, path, data)
	if err == nil {
		return Record{ID: record.ID, Text: append([]byte(nil), record.Text...)}, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return Record{}, fmt.Errorf("store record of %s: %w", mod, err)
	}
	first, err := r.heldAt(ctx, path, mod)
	if err != nil {
		return Record{}, err
	}
	if string(first.Text) != string(record.Text) {
		return Record{}, r.refuseSecond(first, record, mod)
	}
	return first, nil
}

// refuseSecond keeps the evidence that the log has two records of mod.
func (r *records) refuseSecond(first, second Record, mod module.Version) error {
	h := r.follower.head.Load()
	file, err := r.freezer.keepConflict(fmt.Sprintf(
		"The checksum database %s has two different records of %s.\nSeen %s. Both are proved to be under this tree head:\n%s\n"+
			"Record %d, which is held and stays:\n%s\nRecord %d, which is refused:\n%s\n"+
			"What to do: one version must have one content forever. Keep this file, find out which of\n"+
			"the two is true, and tell the operators of the database.\n",
		r.client.name, mod, time.Now().UTC().Format(time.RFC3339), indent(h.note),
		first.ID, indent(first.Text), second.ID, indent(second.Text)))
	r.metrics.conflicts.Inc()
	r.log.Error("the checksum database has two contents of one version",
		"module", mod.Path, "version", mod.Version, "first", first.ID, "second", second.ID, "file", file, "err", err)
	return fmt.Errorf("%w: record %d of %s contradicts record %d of %s", ErrInvalid, second.ID, mod, first.ID, r.client.name)
}

// reply implements Mirror.Reply.
func (r *records) reply(ctx context.Context, record Record) ([]byte, error) {
	h, err := r.follower.newest(ctx)
	if err != nil {
		return nil, err
	}
	if record.ID >= h.tree.N && r.client.connected() {
		if err := r.follower.refresh(ctx); err != nil {
			return nil, err
		}
		h = r.follower.head.Load()
	}
	if record.ID >= h.tree.N {
		return nil, fmt.Errorf("record %d of %s: %w, which is tree %d", record.ID, r.client.name, ErrBeyond, h.tree.N)
	}
	body, err := tlog.FormatRecord(record.ID, record.Text)
	if err != nil {
		return nil, fmt.Errorf("record %d of %s: %w", record.ID, r.client.name, err)
	}
	return append(body, h.note...), nil
}
