package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// errCommitted is the error of Write and Commit after a Commit.
var errCommitted = errors.New("the draft is complete")

// draft is a content that is being written: whole chunks in a local file, with their checksums in
// memory, and what follows them in memory. It becomes visible in the bucket with Commit.
type draft struct {
	db   *DB
	ctx  context.Context // of writes
	size int64           // of the complete content; -1: not known
	sum  hash.Hash       // SHA-256 of what was written

	mu     sync.Mutex  // guards the fields below
	held   memory.Hold // for tail, and for chunks of spool
	spool  spool
	tail   []byte // what follows the chunks in the file, at most a chunk
	err    error  // why nothing can be added
	closed bool
}

// spool is the file of a draft.
type spool struct {
	file   *os.File // nil: there is none yet
	sums   []byte   // of its chunks
	recent []recent // some of them; empty if there is no memory for them
	oldest int      // of these
}

// recent is a chunk that was read last: those who follow a draft, or send its parts, read small pieces.
type recent struct {
	number int64
	chunk  []byte // nil: none
}

// maxContent is the largest content, whose checksums fit into a record.
const maxContent = 16 << 30

// Draft implements storage.Store. A content of at most 256 KiB is only in memory, a larger one in
// Options.Spool, too.
func (db *DB) Draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := db.draft(ctx, size)
	if err != nil {
		return nil, fmt.Errorf("draft: %w", err)
	}
	return d, nil
}

func (db *DB) draft(ctx context.Context, size int64) (*draft, error) {
	if err := db.check(ctx); err != nil {
		return nil, err
	}
	if size < -1 {
		return nil, fmt.Errorf("size %d", size)
	}
	return &draft{db: db, ctx: ctx, size: size, sum: sha256.New()}, nil
}

// Write implements storage.Draft.
func (d *draft) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := d.write(p[n:])
		if err != nil {
			return n, fmt.Errorf("draft: %w", err)
		}
		n += m
	}
	return n, nil
}

// write appends the beginning of p, as much as fits into the chunk.
func (d *draft) write(p []byte) (int, error) {
	if err := d.begin(); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return 0, fs.ErrClosed
	case d.err != nil:
		return 0, d.err
	case d.size >= 0 && d.written()+int64(len(p)) > d.size:
		d.err = fmt.Errorf("more than the %d bytes of the content", d.size)
		return 0, d.err
	case d.written() > maxContent:
		d.err = fmt.Errorf("more than the %d bytes that a content may have in a bucket", int64(maxContent))
		return 0, d.err
	}
	if len(d.tail) == chunkSize {
		if d.err = d.spill(); d.err != nil {
			return 0, d.err
		}
	}
	n := min(len(p), chunkSize-len(d.tail))
	d.tail = append(d.tail, p[:n]...)
	d.sum.Write(p[:n])
	return n, nil
}

// begin takes memory before the first bytes. It waits without mu, so that Close does not.
func (d *draft) begin() error {
	err := d.db.check(d.ctx)
	d.mu.Lock()
	begun := d.tail != nil || d.closed || d.err != nil
	d.mu.Unlock()
	first := int64(chunkSize)
	if d.size >= 0 {
		first = min(first, d.size)
	}
	held := d.db.writers.HoldFor(d.ctx)
	if err == nil && !begun {
		err = held.Grow(d.ctx, first)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err != nil:
		d.err = err
	case d.closed:
		held.Free()
	case !begun:
		d.held, d.tail = held, make([]byte, 0, first)
	}
	return err
}

// written returns the number of bytes written so far. The caller holds mu.
func (d *draft) written() int64 { return d.filed() + int64(len(d.tail)) }

// filed returns how many of them are in the file. The caller holds mu.
func (d *draft) filed() int64 { return int64(len(d.spool.sums)) / 4 * chunkSize }

// spill writes the chunk in memory to the file. The caller holds mu.
func (d *draft) spill() error {
	if d.spool.file == nil {
		file, err := os.CreateTemp(d.db.spool, drafts)
		if err != nil {
			return noRoom(err)
		}
		d.spool.file = file
		if d.held.Try((1+parallelParts)*chunkSize) == nil {
			d.spool.recent = make([]recent, parallelParts)
		}
		_ = os.Remove(file.Name()) // where a file may be removed while it is open, nothing is left after a crash
	}
	if _, err := d.spool.file.WriteAt(d.tail, d.filed()); err != nil {
		return noRoom(err)
	}
	d.spool.sums = appendSum(d.spool.sums, d.tail)
	d.tail = d.tail[:0]
	return nil
}

// noRoom returns an error of the file of a draft as storage.ErrNoLarge. Callers see by its number that the disk is full.
// No other one is wrapped: a file that is missing here is not an object that is missing in the bucket.
func noRoom(err error) error {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, full) {
			return fmt.Errorf("%w: %w", storage.ErrNoLarge, err)
		}
	}
	return fmt.Errorf("%w: %v", storage.ErrNoLarge, err)
}

// ReadAt implements storage.Draft.
func (d *draft) ReadAt(p []byte, offset int64) (n int, err error) {
	for n < len(p) {
		m, err := d.readAt(p[n:], offset+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readAt reads from one chunk.
func (d *draft) readAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	number := offset / chunkSize
	switch {
	case d.closed || d.db.closed.Load():
		return 0, fmt.Errorf("draft: %w", fs.ErrClosed)
	case offset < 0:
		return 0, fmt.Errorf("draft: no position %d", offset)
	case offset >= d.written():
		return 0, io.EOF
	case offset >= d.filed():
		return copy(p, d.tail[offset-d.filed():]), nil
	}
	for _, r := range d.spool.recent {
		if r.chunk != nil && r.number == number {
			return copy(p, r.chunk[offset%chunkSize:]), nil
		}
	}
	chunk, err := d.load(number)
	if err != nil {
		return 0, fmt.Errorf("draft: %w", err)
	}
	return copy(p, chunk[offset%chunkSize:]), nil
}

// load reads a chunk of the file, and lets others in meanwhile. The caller holds mu.
func (d *draft) load(number int64) ([]byte, error) {
	file, sums := d.spool.file, record{Sums: d.spool.sums}
	d.mu.Unlock()
	chunk := make([]byte, chunkSize)
	_, err := file.ReadAt(chunk, number*chunkSize)
	if err == nil {
		err = sums.checkChunks(chunk, number)
	}
	d.mu.Lock()
	if err == nil && len(d.spool.recent) > 0 {
		d.spool.recent[d.spool.oldest] = recent{number, chunk}
		d.spool.oldest = (d.spool.oldest + 1) % len(d.spool.recent)
	}
	return chunk, err
}

// Commit implements storage.Draft.
func (d *draft) Commit(ctx context.Context, info storage.Info) error {
	if err := d.create(ctx, info); err != nil {
		return fmt.Errorf("create %.200q: %w", info.Key, err)
	}
	return nil
}

// create writes the content and its record, if the key has none.
func (d *draft) create(ctx context.Context, info storage.Info) error {
	r, content, err := d.finish(ctx, info)
	if err != nil {
		return err
	}
	absent := condition{absent: true}
	if content != nil {
		return d.db.records.putRecord(ctx, r, content, absent)
	}
	switch there, err := d.db.records.exists(ctx, r.Key); { // perhaps the upload would be for nothing
	case err != nil:
		return err
	case there:
		return fs.ErrExist
	}
	began, err := d.upload(ctx, &r)
	if err != nil {
		return err
	}
	// If the record is not written the content stays, for Collect: whether our record was there for a
	// moment, and was moved on by another, cannot be known.
	if err := d.db.records.putRecord(ctx, r, nil, absent); err != nil {
		return err
	}
	err = d.db.records.confirm(ctx, began+1)
	if errors.Is(err, errCollected) {
		return d.renew(ctx, r)
	}
	return err
}

// renewals is how often a content is sent again because collections may have missed its record.
const renewals = 3

// renew sends the content of a record that is there once more, under another name. The record is not taken
// back: others may have been told that the key is taken.
func (d *draft) renew(ctx context.Context, r record) error {
	for range renewals {
		c, now, err := d.db.records.look(ctx, r.Key)
		if err != nil {
			return err
		}
		if now.ID != r.ID {
			return nil // it was created, and has been changed or deleted by another since
		}
		next := r
		next.ID = newID()
		began, err := d.upload(ctx, &next)
		if err == nil {
			err = d.db.records.putRecord(ctx, next, nil, c)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			if err == nil {
				r = next
				err = d.db.records.confirm(ctx, began+1)
			}
		}
		if !errors.Is(err, errCollected) {
			return err
		}
	}
	return errors.Join(errCollected, d.db.records.takeBack(ctx, r))
}

// replace writes the content and its record, whatever the key has.
func (d *draft) replace(ctx context.Context, info storage.Info) error {
	r, content, err := d.finish(ctx, info)
	if err != nil {
		return err
	}
	if content != nil {
		return d.db.records.replaceRecord(ctx, r, content)
	}
	began, err := d.upload(ctx, &r)
	if err != nil {
		return err
	}
	if err := d.db.records.replaceRecord(ctx, r, nil); err != nil {
		return err
	}
	return d.db.records.confirm(ctx, began+1) // the old one is gone, so this one stays
}

// upload sends a large content, whose record names it then, and returns the generation in which that began.
func (d *draft) upload(ctx context.Context, r *record) (began int64, err error) {
	g, _, _, err := d.db.records.generation(ctx)
	if err != nil {
		return 0, err
	}
	r.Content = g.contentKey(r.ID)
	if err := d.db.records.upload(ctx, r.Content, d, r.Size); err != nil {
		return 0, err
	}
	return g.Number, d.db.records.confirm(ctx, g.Number+1)
}

// finish ends the writing, and returns the record of the content, and a small content; nil is a large
// one.
func (d *draft) finish(ctx context.Context, info storage.Info) (record, []byte, error) {
	if err := errors.Join(d.db.check(ctx), info.Check()); err != nil {
		return record{}, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return record{}, nil, fs.ErrClosed
	case d.err != nil:
		return record{}, nil, d.err
	case d.written() != info.Size || d.size >= 0 && d.size != info.Size:
		return record{}, nil, fmt.Errorf("content of %d bytes is to have %d", d.written(), info.Size)
	}
	d.err = errCommitted
	r := newRecord(info, bytes.Clone(d.spool.sums))
	r.SHA256 = d.sum.Sum(nil)
	if len(d.tail) > 0 {
		r.Sums = appendSum(r.Sums, d.tail)
	}
	if r.Size > chunkSize {
		return r, nil, nil
	}
	return r, append([]byte{}, d.tail...), nil
}

// Close implements storage.Draft.
func (d *draft) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fs.ErrClosed
	}
	d.closed = true
	d.tail, d.spool.recent = nil, nil
	d.held.Free()
	if d.spool.file == nil {
		return nil
	}
	err := d.spool.file.Close()
	if removeErr := os.Remove(d.spool.file.Name()); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}
