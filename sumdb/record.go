package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"
)

// Held returns the record of mod if it is held. The error is fs.ErrNotExist
// otherwise.
func (m *Mirror) Held(ctx context.Context, mod module.Version) (Record, error) {
	path, err := LookupPath(mod)
	if err != nil {
		return Record{}, err
	}
	return m.heldRecord(ctx, path, mod)
}

func (m *Mirror) heldRecord(ctx context.Context, path string, mod module.Version) (Record, error) {
	data, err := m.held(ctx, path)
	if err != nil {
		return Record{}, fmt.Errorf("record of %s in %s: %w", mod, m.name, err)
	}
	record, rest, err := parseRecord(data, mod)
	if err != nil || len(rest) > 0 {
		m.log.Error("stored record is damaged; it will be fetched again", "key", m.key(path), "err", err)
		return Record{}, m.drop(ctx, path)
	}
	return record, nil
}

// Lookup returns the record of mod: the one that is held, or else the one that
// upstream has, once it is proved and stored. However many ask at the same time,
// upstream is asked once, with a deadline of 150 s that is not theirs.
//
// The errors are fs.ErrNotExist if the database does not know mod, or if it is
// not held and there is no upstream; ErrInvalid if upstream's answer does not
// verify; ErrFrozen; and those of the FetchFunc and the store. No error is
// remembered.
func (m *Mirror) Lookup(ctx context.Context, mod module.Version) (Record, error) {
	record, result, err := m.lookup(ctx, mod)
	m.metrics.lookups.WithLabelValues(resultOf(result, err)).Inc()
	return record, err
}

func (m *Mirror) lookup(ctx context.Context, mod module.Version) (Record, string, error) {
	path, err := LookupPath(mod)
	if err != nil {
		return Record{}, "", err
	}
	record, err := m.heldRecord(ctx, path, mod)
	if !errors.Is(err, fs.ErrNotExist) {
		return record, "hit", err
	}
	if err := m.thawed(); err != nil {
		return Record{}, "", fmt.Errorf("lookup of %s: %w", mod, err)
	}
	if !m.connected() {
		return Record{}, "", m.notHeld(mod)
	}
	shared, err := m.share(ctx, path, lookupTime, func(ctx context.Context) (any, error) {
		// Somebody else's flight may have landed since.
		if record, err := m.heldRecord(ctx, path, mod); !errors.Is(err, fs.ErrNotExist) {
			return record, err
		}
		return m.fetchRecord(ctx, path, mod)
	})
	if err != nil {
		return Record{}, "", err
	}
	return shared.(Record), "miss", nil
}

// notHeld says how old this mirror is, because that is what its user has to know.
func (m *Mirror) notHeld(mod module.Version) error {
	h := m.head.Load()
	if h == nil {
		return fmt.Errorf("%s: this mirror of %s is empty and has no upstream: %w", mod, m.name, fs.ErrNotExist)
	}
	return fmt.Errorf("%s: not in this mirror of %s, which has no upstream and ends at tree %d of %s: %w",
		mod, m.name, h.tree.N, h.time.UTC().Format(time.DateOnly), fs.ErrNotExist)
}

// lookupMemory is what a lookup takes: the answer of upstream, while it grows, and the
// tiles of its proof.
const lookupMemory = 2*textLimit + 8*fullTile

// fetchRecord gets the record of mod from upstream, proves it and stores it.
func (m *Mirror) fetchRecord(ctx context.Context, path string, mod module.Version) (Record, error) {
	held := m.config.Memory.HoldFor(ctx)
	if err := held.Grow(ctx, lookupMemory); err != nil {
		return Record{}, err
	}
	defer held.Free()
	msg, err := m.fetch(ctx, path, textLimit)
	if err != nil {
		return Record{}, fmt.Errorf("lookup of %s in %s: %w", mod, m.name, err)
	}
	record, signed, err := parseRecord(msg, mod)
	if err != nil {
		return Record{}, err
	}
	if err := m.accept(ctx, signed, path); err != nil {
		return Record{}, fmt.Errorf("lookup of %s: %w", mod, err)
	}
	if err := m.include(ctx, record, mod); err != nil {
		return Record{}, err
	}
	return m.keep(ctx, path, record, mod)
}

// include proves that record is in the tree of our head.
func (m *Mirror) include(ctx context.Context, record Record, mod module.Version) error {
	h := m.head.Load()
	if record.ID >= h.tree.N {
		return fmt.Errorf("%w: record %d of %s is beyond the tree of %d that %s shows with it",
			ErrInvalid, record.ID, mod, h.tree.N, m.name)
	}
	tile, err := m.proveTile(ctx, h, place{0, record.ID >> TileHeight})
	if err != nil {
		return fmt.Errorf("record %d of %s: %w", record.ID, mod, err)
	}
	at := int(record.ID&(1<<TileHeight-1)) * tlog.HashSize
	if leaf := tlog.RecordHash(record.Text); string(tile[at:at+tlog.HashSize]) != string(leaf[:]) {
		return fmt.Errorf("%w: record %d of %s is not what is in the tree of %s", ErrInvalid, record.ID, mod, m.name)
	}
	return nil
}

// keep stores record, which is proved. If another one is stored already, the
// first one stays; two contents of one version are refused, with evidence.
func (m *Mirror) keep(ctx context.Context, path string, record Record, mod module.Version) (Record, error) {
	data, err := tlog.FormatRecord(record.ID, record.Text)
	if err != nil {
		return Record{}, fmt.Errorf("record of %s: %w", mod, err)
	}
	err = m.create(ctx, path, data)
	if err == nil {
		return Record{ID: record.ID, Text: append([]byte(nil), record.Text...)}, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return Record{}, fmt.Errorf("store record of %s: %w", mod, err)
	}
	first, err := m.heldRecord(ctx, path, mod)
	if err != nil {
		return Record{}, err
	}
	if string(first.Text) != string(record.Text) {
		return Record{}, m.refuseSecond(first, record, mod)
	}
	return first, nil
}

// refuseSecond keeps the evidence that the log has two contents of mod.
func (m *Mirror) refuseSecond(first, second Record, mod module.Version) error {
	h := m.head.Load()
	file := m.evidenceFile("conflict")
	err := m.writeEvidence(file, fmt.Sprintf(
		"The checksum database %s has two different records of %s.\nSeen %s. Both are proved to be under this tree head:\n%s\n"+
			"Record %d, which is held and stays:\n%s\nRecord %d, which is refused:\n%s\n"+
			"What to do: one version must have one content for ever. Keep this file, find out which of\n"+
			"the two is true, and tell the people who run the database.\n",
		m.name, mod, time.Now().UTC().Format(time.RFC3339), indent(h.note),
		first.ID, indent(first.Text), second.ID, indent(second.Text)))
	m.metrics.conflicts.Inc()
	m.log.Error("the checksum database has two contents of one version",
		"module", mod.Path, "version", mod.Version, "first", first.ID, "second", second.ID, "file", file, "err", err)
	return fmt.Errorf("%w: record %d of %s contradicts record %d of %s", ErrInvalid, second.ID, mod, first.ID, m.name)
}

// Reply is the body of the answer to a lookup: the record and our newest head,
// which covers it. The error is ErrBeyond if our head does not, which happens
// only after a store lost its head and went back to an older one.
func (m *Mirror) Reply(ctx context.Context, r Record) ([]byte, error) {
	h, err := m.newest(ctx)
	if err != nil {
		return nil, err
	}
	if r.ID >= h.tree.N && m.connected() {
		if err := m.Refresh(ctx); err != nil {
			return nil, err
		}
		h = m.head.Load()
	}
	if r.ID >= h.tree.N {
		return nil, fmt.Errorf("record %d of %s: %w, which is tree %d", r.ID, m.name, ErrBeyond, h.tree.N)
	}
	body, err := tlog.FormatRecord(r.ID, r.Text)
	if err != nil {
		return nil, fmt.Errorf("record %d of %s: %w", r.ID, m.name, err)
	}
	return append(body, h.note...), nil
}
