package sumdb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/storage"
)

// records looks up records in the store, and else at upstream; those of upstream are proved to be
// under our head.
type records struct {
	client   *client
	objects  *objects
	finder   *finder
	follower *follower
	freezer  *freezer
	evidence *conflicts
	hashes   *hashTiles
	memory   *memory.Budget
	metrics  *metrics
	log      *slog.Logger

	// waiting has proofs that are not stored yet, by the paths of their lookups: a second caller needs
	// no second request. What it drops is fetched again.
	waiting memo.Map[string, *Proof]

	// recent has the paths of records that were stored a moment ago. A lookup that has not found one of
	// them, and waited since, looks again; all others read the store once.
	recent memo.Map[string, struct{}]
}

// maxRecent is how many records and tiles are remembered as stored a moment ago.
const maxRecent = 1024

// maxWaiting limits the memory of proofs that wait to be stored. The tiles of one are mostly those of
// another one, or wait in the prover.
const maxWaiting = 512 << 10

// Proof is a proved record that is perhaps not stored yet. Until Store has returned, no answer may
// depend on it. Its methods may be called concurrently.
type Proof struct {
	Record Record

	records *records
	mod     module.Version
	path    string // of the lookup
	size    int    // bytes

	// storing has a value while the proof is being stored, and guards what follows. It is a channel
	// and not a mutex, so that a caller can stop waiting when its context ends.
	storing chan struct{}
	stored  *Record   // the record in the store; nil: it is not there yet
	step    step      // what proves the head
	tiles   fullTiles // what proves the record
}

// newProof returns the proof of record, which is not stored yet.
func (r *records) newProof(record Record, path string, mod module.Version) *Proof {
	return &Proof{Record: record, records: r, mod: mod, path: path, storing: make(chan struct{}, 1)}
}

// Store makes the proof durable, and then the objects with, which depend on it, in one batch of the
// store. A proof is stored once; later calls, and those for a record that was held, store with alone.
//
// Store may wait for upstream if our head has moved since the record was proved. So it calls permit,
// if that is not nil, right before it stores with; after an error of permit it does not.
//
// The error is fs.ErrExist or storage.ErrDamaged if something else is stored at the key of one of
// the objects with; the proof is stored then. It is ErrFrozen if a fork was seen since the record was
// proved, and ErrInvalid if the store has another record of the module.
func (p *Proof) Store(ctx context.Context, permit func() error, with ...storage.Small) error {
	_, err := p.records.keep(ctx, p, func() ([]storage.Small, error) {
		if permit == nil {
			return with, nil
		}
		return with, permit()
	})
	return err
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

// lookup implements Mirror.Lookup.
func (r *records) lookup(ctx context.Context, mod module.Version) (Record, string, error) {
	proof, result, err := r.prove(ctx, mod)
	if err != nil {
		return Record{}, result, err
	}
	record, err := r.keep(ctx, proof, alone)
	return record, result, err
}

// prove implements Mirror.Prove; result is the label of a metric.
func (r *records) prove(ctx context.Context, mod module.Version) (proof *Proof, result string, err error) {
	path, err := LookupPath(mod)
	if err != nil {
		return nil, "", err
	}
	proof, err = r.proved(ctx, path, mod)
	if !errors.Is(err, fs.ErrNotExist) {
		return proof, "hit", err
	}
	if err := r.freezer.check(); err != nil {
		return nil, "", fmt.Errorf("lookup of %s: %w", mod, err)
	}
	if !r.client.connected() {
		return nil, "", r.notHeld(mod)
	}
	proof, err = share(ctx, r.client, path, lookupTime, func(ctx context.Context) (*Proof, error) {
		// Another flight may have proved it since.
		if waiting, ok := r.waiting.Get(path); ok {
			return waiting, nil
		}
		if _, ok := r.recent.Get(path); ok {
			if proof, err := r.proved(ctx, path, mod); !errors.Is(err, fs.ErrNotExist) {
				return proof, err
			}
		}
		return r.fetchRecord(ctx, path, mod)
	})
	return proof, "miss", err
}

// proved returns the proof of mod that is stored or waits to be stored. The error is fs.ErrNotExist
// if there is none.
func (r *records) proved(ctx context.Context, path string, mod module.Version) (*Proof, error) {
	waiting, ok := r.waiting.Get(path)
	if ok {
		return waiting, nil
	}
	record, err := r.heldAt(ctx, path, mod)
	if err != nil {
		return nil, err
	}
	p := r.newProof(record, path, mod)
	p.stored = &record
	return p, nil
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

// fetchRecord fetches the record of mod from upstream and proves it.
func (r *records) fetchRecord(ctx context.Context, path string, mod module.Version) (*Proof, error) {
	held := r.memory.HoldFor(ctx)
	if err := held.Grow(ctx, lookupMemory); err != nil {
		return nil, err
	}
	defer held.Free()
	msg, err := r.client.fetch(ctx, path, textLimit)
	if err != nil {
		return nil, fmt.Errorf("lookup of %s in %s: %w", mod, r.client.name, err)
	}
	record, signed, err := parseRecord(msg, mod)
	if err != nil {
		return nil, err
	}
	record.Text = bytes.Clone(record.Text) // msg is larger
	p := r.newProof(record, path, mod)
	if err := r.complete(ctx, p, signed); err != nil {
		return nil, err
	}
	p.size = len(record.Text) + fullTile*(len(p.tiles)+p.step.held())
	r.waiting.Put(path, p)
	return p, nil
}

// complete proves the signed head and the record that came with it. If our head is not smaller, the
// record is proved under ours, so both proofs fetch their tiles at the same time.
func (r *records) complete(ctx context.Context, p *Proof, signed []byte) error {
	theirs, err := r.follower.judge.open(signed, p.path)
	if err != nil {
		return fmt.Errorf("lookup of %s: %w", p.mod, err)
	}
	ours := r.follower.head.Load()
	if ours == nil || theirs.tree.N > ours.tree.N {
		if p.step, err = r.follower.prove(ctx, theirs, p.path); err != nil {
			return fmt.Errorf("lookup of %s: %w", p.mod, err)
		}
		p.tiles, err = r.proveIncluded(ctx, p.step.head(), p.Record, p.mod)
		return err
	}
	var included errgroup.Group
	included.Go(func() error {
		return panics.Catch(func() (err error) {
			p.tiles, err = r.proveIncluded(ctx, ours, p.Record, p.mod)
			return err
		})
	})
	p.step, err = r.follower.judge.olderThan(ctx, ours, theirs, p.path) // to its end, also if the record is wrong: it may be a fork
	notIncluded := included.Wait()
	if err != nil {
		return fmt.Errorf("lookup of %s: %w", p.mod, err)
	}
	return notIncluded
}

// proveIncluded proves that record is in the tree of h, and returns the tiles that prove it.
func (r *records) proveIncluded(ctx context.Context, h *head, record Record, mod module.Version) (fullTiles, error) {
	if record.ID >= h.tree.N {
		return nil, fmt.Errorf("%w: record %d of %s is beyond the tree of %d that %s shows with it",
			ErrInvalid, record.ID, mod, h.tree.N, r.client.name)
	}
	tile, err := r.hashes.prove(ctx, h, place{0, record.ID >> TileHeight})
	if err != nil {
		return nil, fmt.Errorf("record %d of %s: %w", record.ID, mod, err)
	}
	at := int(record.ID&(1<<TileHeight-1)) * tlog.HashSize
	if leaf := tlog.RecordHash(record.Text); string(tile.data[at:at+tlog.HashSize]) != string(leaf[:]) {
		return nil, fmt.Errorf("%w: record %d of %s is not what is in the tree of %s", ErrInvalid, record.ID, mod, r.client.name)
	}
	return tile.tiles, nil
}

// keep implements Proof.Store, and returns the record that is stored.
func (r *records) keep(ctx context.Context, p *Proof, with dependents) (Record, error) {
	record, together, err := r.keepProof(ctx, p, with)
	if err != nil || together {
		return record, err
	}
	objects, err := with()
	if err != nil || len(objects) == 0 {
		return record, err
	}
	return record, r.objects.store.Apply(ctx, storage.Batch{Create: objects})
}

// keepProof stores p, if it is not stored yet, and returns the record that is stored. It reports
// whether the dependents are stored together with it.
func (r *records) keepProof(ctx context.Context, p *Proof, with dependents) (record Record, together bool, err error) {
	select {
	case p.storing <- struct{}{}:
	case <-ctx.Done():
		return Record{}, false, fmt.Errorf("store record of %s: %w", p.mod, ctx.Err())
	}
	defer func() { <-p.storing }()
	if p.stored != nil {
		return *p.stored, false, nil
	}
	err = r.keepTogether(ctx, p, with)
	together = err == nil
	if blocked(err) {
		err = r.keepEach(ctx, p)
	}
	if err == nil {
		return *p.stored, together, nil
	}
	if p.step.next != nil || errors.Is(err, ErrFrozen) || errors.Is(err, ErrInvalid) {
		r.waiting.Delete(p.path) // it would perhaps fail forever
	}
	if blocked(err) {
		err = fmt.Errorf("%v", err) // not %w: for the caller it would be an error of with
	}
	return Record{}, false, fmt.Errorf("store record of %s: %w", p.mod, err)
}

// keepTogether stores p and then its dependents in one batch: head, tiles, record, dependents. The
// caller has p.storing.
func (r *records) keepTogether(ctx context.Context, p *Proof, with dependents) error {
	if err := r.freezer.check(); err != nil {
		return err
	}
	data, err := tlog.FormatRecord(p.Record.ID, p.Record.Text)
	if err != nil {
		return err
	}
	record := append(r.hashes.prover.tileObjects(p.tiles), r.objects.object(p.path, data))
	err = r.follower.settle(ctx, p.step, func() ([]storage.Small, error) {
		objects, err := with()
		return slices.Concat(record, objects), err
	})
	if err != nil {
		return err
	}
	r.kept(p, p.Record)
	return nil
}

// keepEach is keepTogether without a batch. It replaces wrong tiles. If a record is stored already,
// that one stays; a record with other hashes is refused, with evidence.
func (r *records) keepEach(ctx context.Context, p *Proof) error {
	if err := r.follower.acceptHead(ctx, cmp.Or(p.step.next, p.step.theirs), p.step.from); err != nil {
		return err
	}
	if err := r.hashes.prover.saveEach(ctx, p.tiles); err != nil {
		return err
	}
	data, err := tlog.FormatRecord(p.Record.ID, p.Record.Text)
	if err != nil {
		return err
	}
	record := p.Record
	err = r.objects.create(ctx, p.path, data)
	if errors.Is(err, fs.ErrExist) {
		record, err = r.heldAt(ctx, p.path, p.mod)
		if errors.Is(err, fs.ErrNotExist) { // it was damaged, and is removed
			record, err = p.Record, r.objects.create(ctx, p.path, data)
		}
	}
	if err != nil {
		return err
	}
	if string(record.Text) != string(p.Record.Text) {
		return r.refuseSecond(record, p.Record, p.mod)
	}
	r.kept(p, record)
	return nil
}

// kept notes that p is stored, as record. The caller has p.storing.
func (r *records) kept(p *Proof, record Record) {
	p.stored = &record
	r.hashes.prover.stored(p.tiles)
	r.recent.Put(p.path, struct{}{}) // before it is not in waiting any more
	r.waiting.Delete(p.path)
	p.tiles, p.step = nil, step{} // they are in the store
}

// refuseSecond keeps the evidence that the log has two records of mod.
func (r *records) refuseSecond(first, second Record, mod module.Version) error {
	h := r.follower.head.Load()
	file, err := r.evidence.keep(fmt.Sprintf(
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
	h, err := r.finder.newest(ctx)
	if err != nil {
		return nil, err
	}
	if record.ID >= h.tree.N { // it is stored, so its head is, too, unless the store has lost that
		if err := r.finder.catchUp(ctx); err != nil {
			return nil, err
		}
		h = r.follower.head.Load()
	}
	if record.ID >= h.tree.N && r.client.connected() {
		if err := r.finder.refresh(ctx); err != nil {
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
