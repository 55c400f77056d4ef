package s3

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

const (
	// readSize is how much of a large content is read with one request.
	readSize = 4 * chunkSize

	// readsAhead is how many such requests are under way while a whole content is read.
	readsAhead = 4

	// memoryWait is how long Open waits for memory.
	memoryWait = 20 * time.Second

	// mostShare is the part of the memory for large contents that one reader gets for what it reads ahead: 1/mostShare.
	// Some may be stuck, behind a client or a local disk, and others must find some.
	mostShare = 6
)

// object is an open object: a part of its content, verified and in memory, and the position.
type object struct {
	db     *DB
	r      record
	ctx    context.Context // of reads; it ends with Close
	cancel context.CancelFunc
	held   memory.Hold // for part, and for what is read ahead

	pos    int64
	part   []byte
	offset int64 // of part
	closed bool
}

// Open implements storage.Store. A content of at most 256 KiB is read and checked at once. The error is memory.ErrFull
// if there is no memory for it for a while. A larger one takes memory when it is read, and a Read waits for that until
// others have read theirs.
func (db *DB) Open(ctx context.Context, key string) (storage.Object, error) {
	o, err := db.open(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("open %.200q: %w", key, err)
	}
	return o, nil
}

func (db *DB) open(ctx context.Context, key string) (*object, error) {
	if err := errors.Join(db.check(ctx), storage.CheckKey(key)); err != nil {
		return nil, err
	}
	held := db.readers.HoldFor(ctx)
	if err := waitFor(ctx, &held); err != nil {
		return nil, err
	}
	r, content, _, err := db.records.record(ctx, objects+key, firstRead+chunkSize, true)
	if err != nil {
		held.Free()
		return nil, err
	}
	o := &object{db: db, r: r, held: held}
	if r.Content == "" {
		o.part = content
		o.held.Shrink(r.Size)
	} else {
		o.held.Free()
		o.held = db.large.HoldFor(ctx)
	}
	o.ctx, o.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return o, nil
}

// waitFor takes memory for one chunk, and does not wait for it for ever.
func waitFor(ctx context.Context, held *memory.Hold) error {
	ctx, cancel := context.WithTimeout(ctx, memoryWait)
	defer cancel()
	return held.Grow(ctx, chunkSize)
}

// Stat implements storage.Store.
func (db *DB) Stat(ctx context.Context, key string) (storage.Info, error) {
	err := errors.Join(db.check(ctx), storage.CheckKey(key))
	if err == nil {
		var r record
		if r, _, _, err = db.records.record(ctx, objects+key, firstRead, false); err == nil {
			return r.info(), nil
		}
	}
	return storage.Info{}, fmt.Errorf("stat %.200q: %w", key, err)
}

func (o *object) Info() storage.Info { return o.r.info() }

func (o *object) SHA256() (sum [sha256.Size]byte) {
	copy(sum[:], o.r.SHA256)
	return sum
}

func (o *object) check() error {
	if o.closed || o.db.closed.Load() {
		return fmt.Errorf("read %.200q: %w", o.Info().Key, fs.ErrClosed)
	}
	return nil
}

func (o *object) Seek(offset int64, whence int) (int64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekCurrent:
		offset += o.pos
	case io.SeekEnd:
		offset += o.r.Size
	}
	if offset < 0 || whence < io.SeekStart || whence > io.SeekEnd {
		return 0, fmt.Errorf("seek %.200q: no position %d", o.Info().Key, offset)
	}
	o.pos = offset
	return offset, nil
}

func (o *object) Read(p []byte) (int, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if o.pos >= o.r.Size {
		return 0, io.EOF
	}
	if o.pos < o.offset || o.pos >= o.offset+int64(len(o.part)) {
		if err := o.load(len(p)); err != nil {
			return 0, err
		}
	}
	n := copy(p, o.part[o.pos-o.offset:])
	o.pos += int64(n)
	return n, nil
}

// load reads the part with the position: one chunk, or more for a reader that goes on where the last
// part ended, or that wants more.
func (o *object) load(want int) error {
	length := int64(chunkSize)
	if o.pos > 0 && o.pos == o.offset+int64(len(o.part)) || want > chunkSize {
		length = readSize
	}
	o.part = nil
	if length > chunkSize && !o.grow(length) {
		length = chunkSize
	}
	if err := o.held.Grow(o.ctx, length); err != nil {
		return fmt.Errorf("read %.200q: %w", o.Info().Key, err)
	}
	offset := o.pos - o.pos%chunkSize
	part, err := o.fetch(o.ctx, offset, length)
	if err != nil {
		return err
	}
	o.part, o.offset = part, offset
	return nil
}

// grow makes the memory of o at least n bytes, if there is so much for one reader.
func (o *object) grow(n int64) bool {
	if all := o.db.large.Size(); all > 0 && n > max(all/mostShare, chunkSize) {
		return false
	}
	return o.held.Try(n) == nil
}

// fetch reads a part of a large content, which begins with a chunk, and checks it.
func (o *object) fetch(ctx context.Context, offset, length int64) ([]byte, error) {
	length = min(length, o.r.Size-offset)
	part, err := o.fetchOnce(ctx, offset, length)
	if errors.Is(err, storage.ErrDamaged) { // perhaps on the way
		part, err = o.fetchOnce(ctx, offset, length)
	}
	if err != nil {
		return nil, fmt.Errorf("read %.200q: %w", o.Info().Key, err)
	}
	return part, nil
}

func (o *object) fetchOnce(ctx context.Context, offset, length int64) ([]byte, error) {
	part, _, err := o.db.records.get(ctx, o.r.Content, offset, length)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the content is gone: %w", storage.ErrDamaged)
	case err != nil:
		return nil, err
	case int64(len(part)) != length:
		return nil, fmt.Errorf("%d bytes instead of %d at %d: %w", len(part), length, offset, storage.ErrDamaged)
	}
	return part, o.r.checkChunks(part, offset/chunkSize)
}

// WriteTo reads several parts at a time, as many as there is memory for.
func (o *object) WriteTo(w io.Writer) (written int64, err error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	write := func(b []byte) error {
		n, err := w.Write(b)
		o.pos += int64(n)
		written += int64(n)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		return err
	}
	if o.pos >= o.offset && o.pos < o.offset+int64(len(o.part)) {
		if err := write(o.part[o.pos-o.offset:]); err != nil {
			return written, err
		}
	}
	if o.pos >= o.r.Size {
		return written, nil
	}
	o.part = nil
	o.held.Free()
	ahead := o.readAhead()
	defer ahead.stop()
	for o.pos < o.r.Size {
		if err := o.check(); err != nil {
			return written, err
		}
		part, offset, err := ahead.next()
		if err != nil {
			return written, err
		}
		if err := write(part[o.pos-offset:]); err != nil {
			return written, err
		}
	}
	return written, nil
}

func (o *object) Close() error {
	if o.closed {
		return o.check()
	}
	o.closed = true
	o.cancel()
	o.part = nil
	o.held.Free()
	return nil
}

// ahead reads the parts of an object from its position on.
type ahead struct {
	o      *object
	ctx    context.Context
	cancel context.CancelFunc
	begin  int64 // of the first part that has not been asked for
	parts  []pending
}

type pending struct {
	offset int64
	part   chan fetched
}

type fetched struct {
	bytes []byte
	err   error
}

func (o *object) readAhead() *ahead {
	ctx, cancel := context.WithCancel(o.ctx)
	return &ahead{o: o, ctx: ctx, cancel: cancel, begin: o.pos - o.pos%chunkSize}
}

// next returns the next part, and asks for those after it.
func (a *ahead) next() (part []byte, offset int64, err error) {
	for len(a.parts) < readsAhead && a.begin < a.o.r.Size {
		if a.o.grow(int64(len(a.parts)+1) * readSize) {
			a.ask(readSize)
			continue
		}
		if len(a.parts) > 0 {
			break
		}
		if err := a.o.held.Grow(a.ctx, chunkSize); err != nil {
			return nil, 0, err
		}
		a.ask(chunkSize)
		break
	}
	first := a.parts[0]
	a.parts = a.parts[1:]
	got := <-first.part
	return got.bytes, first.offset, got.err
}

// ask begins to read a part of at most so many bytes.
func (a *ahead) ask(length int64) {
	p := pending{a.begin, make(chan fetched, 1)}
	go func() {
		b, err := a.o.fetch(a.ctx, p.offset, length)
		p.part <- fetched{b, err}
	}()
	a.parts = append(a.parts, p)
	a.begin += length
}

// stop waits for the requests that are under way, because they use memory.
func (a *ahead) stop() {
	a.cancel()
	for _, p := range a.parts {
		<-p.part
	}
	a.o.held.Free()
}
