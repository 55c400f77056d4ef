package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// In a store of schema 1 the key of a module's file is only its path in the protocol. Rekey puts
// the voucher of the object in front of each. The reasons for its design are in
// docs/design/storage.md.

// It has two phases, because references are sorted by blob and objects by key: moving both at once
// would write the pages of all references again and again. First the references get the new keys,
// which only Verify and deletions use, then the objects.

// rekeySteps is the maximum number of references or objects that one transaction moves.
const rekeySteps = 20_000

// rekeyEvery is the time between two calls of Rekey's progress.
const rekeyEvery = 2 * time.Second

// Rekeyed is the progress of Rekey.
type Rekeyed struct {
	Done, Total int64 // objects, and references to blobs
	Left        int64 // objects of Done that keep their keys: damaged ones, and those whose keys were too long to be found before
}

// rekeyState is the stored progress of a move.
type rekeyState struct {
	Rekeyed
	objects bool   // all references are moved
	last    string // last key of Done in its bucket
}

// readRekeyState returns the stored progress, nil if there is no unfinished move.
func readRekeyState(schema *bbolt.Bucket) (*rekeyState, error) {
	value := schema.Get(keyRekeying)
	if value == nil {
		return nil, nil
	}
	p := parser{rest: value}
	s := &rekeyState{Rekeyed: Rekeyed{Done: p.varint(), Total: p.varint(), Left: p.varint()}, objects: p.varint() != 0, last: p.string()}
	if p.err != nil {
		return nil, fmt.Errorf("how far the move of the keys is: %w: %w", p.err, storage.ErrDamaged)
	}
	return s, nil
}

func (s *rekeyState) write(schema *bbolt.Bucket) error {
	objects := int64(0)
	if s.objects {
		objects = 1
	}
	var value []byte
	for _, n := range []int64{s.Done, s.Total, s.Left, objects} {
		value = binary.AppendVarint(value, n)
	}
	return schema.Put(keyRekeying, appendString(value, s.last))
}

// outdated reports whether some keys in meta.db are not those of this version.
func outdated(meta *file) (old bool, err error) {
	err = meta.view(func(tx *bbolt.Tx) error {
		schema := tx.Bucket(bucketSchema)
		version, _ := binary.Uvarint(schema.Get(keyVersion))
		old = version < keysVersion || schema.Get(keyRekeying) != nil
		return nil
	})
	return old, err
}

// Outdated is a store with keys of an earlier version, or with an unfinished move.
type Outdated struct {
	meta  *file
	store storage.Store
}

// notRekeying returns ErrOlder during an unfinished move, when references have other keys than
// their objects.
func notRekeying(tx *bbolt.Tx) error {
	state, err := readRekeyState(tx.Bucket(bucketSchema))
	if err == nil && state != nil {
		err = fmt.Errorf("%w: %d of %d are done; start assay serve once on it, which moves the others", storage.ErrOlder, state.Done, state.Total)
	}
	return err
}

// Rekey gives each object its key of this version. It can be interrupted at any moment; the next
// call continues. It calls progress when it has counted the objects, at intervals, and at the
// end.
func (o *Outdated) Rekey(ctx context.Context, progress func(Rekeyed)) error {
	o.meta.readAhead(ctx)
	if err := o.rekey(ctx, rekeySteps, progress); err != nil {
		return fmt.Errorf("move the keys of %s: %w", o.meta.path, err)
	}
	return nil
}

func (o *Outdated) rekey(ctx context.Context, steps int, progress func(Rekeyed)) error {
	begun, err := o.begin()
	if err != nil {
		return err
	}
	progress(begun)
	r := rekeying{ctx, o, steps, map[string]storage.Voucher{"": storage.Upstream}}
	told := time.Now()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		state, done, err := r.step()
		if err != nil {
			return err
		}
		if done || time.Since(told) >= rekeyEvery {
			told = time.Now()
			progress(state.Rekeyed)
		}
		if done {
			return nil
		}
	}
}

// begin makes older programs refuse the store, and counts the objects and references. It returns
// how far the move is.
func (o *Outdated) begin() (now Rekeyed, err error) {
	err = o.meta.update(0, func(tx *bbolt.Tx) error {
		schema := tx.Bucket(bucketSchema)
		state, err := readRekeyState(schema)
		if err != nil {
			return err
		}
		if state != nil { // another run was interrupted
			now = state.Rekeyed
			return nil
		}
		state = &rekeyState{}
		if err := eachOutdated(tx, "", func([]byte, []byte) bool { state.Total++; return true }); err != nil {
			return err
		}
		state.Total += int64(tx.Bucket(bucketRefs).Stats().KeyN)
		now = state.Rekeyed
		return errors.Join(schema.Put(keyVersion, binary.AppendUvarint(nil, keysVersion)), state.write(schema))
	})
	return now, err
}

// eachOutdated calls do for the objects after a key whose keys are not of this version, until do
// returns false.
func eachOutdated(tx *bbolt.Tx, after string, do func(key, value []byte) bool) error {
	cursor := tx.Bucket(bucketObjects).Cursor()
	last := ""
	for k, v := cursor.Seek([]byte(after)); k != nil; {
		if string(k) <= last { // a damaged key could cause an endless loop
			return fmt.Errorf("keys are out of order at %q: %w", k, storage.ErrDamaged)
		}
		last = string(k)
		if dir := currentDir(last); dir != "" {
			k, v = cursor.Seek([]byte(strings.TrimSuffix(dir, "/") + "0")) // the byte after a slash
			continue
		}
		if last != after && !do(k, v) {
			return nil
		}
		k, v = cursor.Next()
	}
	return nil
}

// currentDir returns the directory of this version that contains a key, "" if the key is of an
// earlier version.
func currentDir(key string) string {
	for _, dir := range []string{"pinned/", "proved/", "sumdb/", string(storage.Upstream) + "/"} {
		if strings.HasPrefix(key, dir) {
			return dir
		}
	}
	return ""
}

// rekeying is one run of Rekey.
type rekeying struct {
	ctx context.Context
	*Outdated
	steps    int                        // maximum for one transaction
	vouchers map[string]storage.Voucher // by Proof, for the known ones; they are noted in the store
}

// step moves a bounded number of entries of a phase, in one transaction. It reports whether
// everything is done.
func (r *rekeying) step() (state rekeyState, done bool, err error) {
	unknown := ""
	err = r.meta.update(maxCommit, func(tx *bbolt.Tx) error {
		schema := tx.Bucket(bucketSchema)
		now, err := readRekeyState(schema)
		if err != nil {
			return err
		}
		ended := false
		if now.objects {
			ended, unknown, err = r.moveObjects(tx, now)
		} else {
			ended, unknown, err = r.moveRefs(tx, now)
		}
		state, done = *now, ended && now.objects
		switch {
		case err != nil:
			return err
		case done:
			return schema.Delete(keyRekeying)
		case ended:
			now.objects, now.last = true, ""
		}
		return now.write(schema)
	})
	if err == nil && unknown != "" {
		err = r.learn(unknown)
	}
	return state, done, err
}

// moveRefs writes the new keys of their objects into the next references. It reports whether these
// were the last ones. If it stops at a Proof of unknown kind, it returns that.
func (r *rekeying) moveRefs(tx *bbolt.Tx, now *rekeyState) (ended bool, unknown string, err error) {
	type move struct{ from, to, hash []byte }
	var moves []move
	objects, refs := tx.Bucket(bucketObjects), tx.Bucket(bucketRefs)
	cursor, count := refs.Cursor(), 0
	for k, hash := cursor.Seek([]byte(now.last)); ; k, hash = cursor.Next() {
		if ended = k == nil; ended || count == r.steps {
			break
		}
		key := string(k[min(8, len(k)):])
		if string(k) == now.last || currentDir(key) != "" {
			continue
		}
		if string(k) < now.last {
			return false, "", fmt.Errorf("references are out of order at %x: %w", k, storage.ErrDamaged)
		}
		var to string
		if to, _, unknown = r.target(tx, key, objects.Get([]byte(key))); unknown != "" {
			break
		}
		if to != "" {
			moves = append(moves, move{k, append(bytes.Clone(k[:8]), to...), hash})
		}
		count++
		now.Done++
		now.last = string(k)
	}
	for _, m := range moves {
		if err := errors.Join(refs.Delete(m.from), refs.Put(m.to, m.hash)); err != nil {
			return false, "", err
		}
	}
	return ended, unknown, nil
}

// moveObjects gives the next objects their new keys. It returns the same as moveRefs.
func (r *rekeying) moveObjects(tx *bbolt.Tx, now *rekeyState) (ended bool, unknown string, err error) {
	type move struct{ from, to, value []byte }
	var moves []move
	size, count := 0, 0
	ended = true
	err = eachOutdated(tx, now.last, func(k, v []byte) bool {
		to, record, unsure := r.target(tx, string(k), v)
		if size >= maxCommit || count == r.steps || unsure != "" {
			ended, unknown = false, unsure
			return false
		}
		if to != "" {
			record.info.Key = to
			moves = append(moves, move{k, []byte(to), record.encode()})
			size += len(v)
		} else {
			now.Left++
		}
		count++
		now.Done++
		now.last = string(k)
		return true
	})
	if err != nil {
		return false, "", err
	}
	objects := tx.Bucket(bucketObjects)
	objects.FillPercent = 0.9 // the objects are sorted by key
	for _, m := range moves {
		if err := errors.Join(objects.Delete(m.from), objects.Put(m.to, m.value)); err != nil {
			return false, "", err
		}
	}
	return ended, unknown, nil
}

// target returns the new key of an object, with its record; "" if the object keeps its key. If the
// key depends on a Proof of unknown kind, target returns that.
func (r *rekeying) target(tx *bbolt.Tx, key string, value []byte) (to string, rec *record, unknown string) {
	if value == nil || storage.Key(key) != key { // an object with a longer key was never found, and may have been fetched again
		return "", nil, ""
	}
	rec, damage := decodeRecord(key, value)
	if damage == nil && rec.blob == nil {
		damage = rec.checkContent() // the record gets a new checksum, which must not cover damaged bytes
	}
	if damage != nil {
		return "", nil, "" // Verify reports it
	}
	voucher, known := r.vouchers[rec.info.Proof]
	if !known {
		return "", nil, rec.info.Proof
	}
	to = voucher.Key(key)
	if storage.CheckKey(to) != nil || tx.Bucket(bucketObjects).Get([]byte(to)) != nil {
		return "", nil, ""
	}
	return to, rec, ""
}

// learn finds out whether a Proof names a checksum database or an own log: the store has the record
// of each version that a database has proved.
func (r *rekeying) learn(proof string) error {
	voucher := storage.PinnedIn(proof)
	err := r.meta.view(func(tx *bbolt.Tx) error {
		dir := []byte(storage.Prefix("sumdb/" + proof + "/lookup"))
		if k, _ := tx.Bucket(bucketObjects).Cursor().Seek(dir); bytes.HasPrefix(k, dir) {
			voucher = storage.ProvedBy(proof)
		}
		return nil
	})
	if err == nil {
		err = storage.NoteVoucher(r.ctx, r.store, voucher)
	}
	if err == nil {
		r.vouchers[proof] = voucher
	}
	return err
}

// readAhead reads the file once sequentially, so that the following reads find it in the page
// cache: bbolt's map reads page by page.
func (f *file) readAhead(ctx context.Context) {
	buffer := make([]byte, 1<<20)
	for at := int64(0); ctx.Err() == nil; {
		n, err := f.raw.ReadAt(buffer, at)
		at += int64(n)
		if err != nil { // io.EOF at the end; any other error appears again when the page is needed
			return
		}
	}
}
