package tiered

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// object is an open object. It reads from the local store, from a fill, or from the bucket, and goes on
// with another of them if one fails.
type object struct {
	opener *opener
	ctx    context.Context // of Open; reads do not end with it

	info storage.Info

	mu     sync.Mutex // guards the fields below
	from   from
	pos    int64
	closed bool

	out outgoing // of WriteTo
}

var _ storage.Object = (*object)(nil)

// from is where an object is read from. At most one of fill and object is set.
type from struct {
	object storage.Object // at the position of the reader, unless it is moved
	local  bool           // object is in the local store
	moved  bool           // the reader has another position

	fill   *fill
	stream *stream // of fill, when the first byte was read
}

// opener opens objects.
type opener struct {
	cache   *cache
	fills   *fills
	remote  storage.Store
	metrics *metrics
	closed  func() bool // the store
}

// attempts is how often an open begins again because an object was evicted or changed meanwhile.
const attempts = 3

func (op *opener) open(ctx context.Context, key string) (*object, error) {
	o := &object{opener: op}
	trusted, again := false, false
	for range attempts {
		local, err := op.openLocal(ctx, key, trusted)
		if err == nil {
			op.metrics.hit.Inc()
			return o.of(ctx, local, true), nil
		}
		if !errors.Is(err, errMiss) {
			op.metrics.failed.Inc()
			return nil, err
		}
		f, shared, err := op.fills.join(ctx, key, o)
		if shared && !again && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, memory.ErrFull)) {
			// That read may have begun before the object was stored, of which our caller knows; or it was for a client that
			// has its part of the memory.
			again = true
			continue
		}
		if err != nil {
			op.metrics.failed.Inc()
			return nil, err
		}
		if trusted = f.local; trusted {
			f.leave(o)
			continue
		}
		if shared {
			op.metrics.shared.Inc()
		} else {
			op.metrics.miss.Inc()
		}
		o.follow(ctx, f)
		return o, nil
	}
	remote, err := op.remote.Open(ctx, key)
	if err != nil {
		op.metrics.failed.Inc()
		return nil, err
	}
	op.metrics.miss.Inc()
	return o.of(ctx, remote, false), nil
}

// warm opens an object, and leaves. A small content has arrived then; a larger one arrives in memory, if there is some.
func (op *opener) warm(ctx context.Context, key string, take func(size int64) bool) (storage.Info, error) {
	o, err := op.open(ctx, key)
	if err != nil {
		return storage.Info{}, err
	}
	defer o.Close()
	switch f := o.from.fill; {
	case f == nil: // it is local
	case o.info.Size <= smallSize:
		take(o.info.Size)
	default:
		f.warm(ctx, take)
	}
	return o.info, nil
}

func (op *opener) openLocal(ctx context.Context, key string, trusted bool) (storage.Object, error) {
	if trusted {
		return op.cache.peek(ctx, key)
	}
	return op.cache.open(ctx, key)
}

// of makes o an object that another store has opened.
func (o *object) of(ctx context.Context, from storage.Object, local bool) *object {
	o.ctx, o.info = ctx, from.Info()
	o.from.object, o.from.local = from, local
	return o
}

// follow makes o a reader of a fill.
func (o *object) follow(ctx context.Context, f *fill) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ctx, o.info = ctx, f.info
	o.from.fill = f
}

func (o *object) Info() storage.Info { return o.info }

func (o *object) SHA256() [sha256.Size]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sum()
}

// sum is SHA256 for a caller that holds mu. It is not kept: a hit needs it rarely, and it may need a pass over
// the content.
func (o *object) sum() [sha256.Size]byte {
	if o.from.fill != nil {
		return o.from.fill.sum
	}
	return o.from.object.SHA256()
}

// reading returns the context of reads.
func (o *object) reading() context.Context { return context.WithoutCancel(o.ctx) }

// give implements follower.
func (o *object) give(local storage.Object) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.from.fill == nil {
		return false
	}
	o.from = from{object: local, local: true, moved: true}
	return true
}

// check returns why nothing can be read.
func (o *object) check() error {
	if o.closed || o.opener.closed() {
		return o.failed(fs.ErrClosed)
	}
	return nil
}

func (o *object) failed(err error) error { return fmt.Errorf("read %.200q: %w", o.info.Key, err) }

func (o *object) Seek(offset int64, whence int) (int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.check(); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekCurrent:
		offset += o.pos
	case io.SeekEnd:
		offset += o.info.Size
	}
	if offset < 0 || whence < io.SeekStart || whence > io.SeekEnd {
		return 0, o.failed(fmt.Errorf("no position %d", offset))
	}
	o.from.moved = o.from.moved || offset != o.pos
	o.pos = offset
	return offset, nil
}

func (o *object) Read(p []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.check(); err != nil {
		return 0, err
	}
	switch {
	case len(p) == 0:
		return 0, nil
	case o.pos >= o.info.Size:
		return 0, io.EOF
	}
	for {
		if err := o.ready(); err != nil {
			return 0, err
		}
		if source := o.from.object; source != nil {
			o.mu.Unlock() // nothing but this goroutine changes an object
			n, err = source.Read(p)
			o.mu.Lock()
		} else {
			n, err = o.readStream(p)
		}
		o.pos += int64(n)
		if n > 0 || err == nil || err == io.EOF {
			return n, o.atEnd(err)
		}
		if err := o.another(err); err != nil {
			return 0, err
		}
	}
}

// atEnd returns the error after bytes were read: none, so that the next call finds another source, if there
// should be more.
func (o *object) atEnd(err error) error {
	if err == io.EOF && o.pos >= o.info.Size {
		return io.EOF
	}
	return nil
}

// ready makes an object be at the position, or a stream be followed. The caller holds mu.
func (o *object) ready() error {
	if o.from.fill != nil && o.from.stream == nil {
		s, remote := o.from.fill.follow(o.reading(), o.pos)
		if s == nil {
			return o.direct(remote)
		}
		o.from.stream = s
	}
	if !o.from.moved || o.from.object == nil {
		return nil
	}
	if _, err := o.from.object.Seek(o.pos, io.SeekStart); err != nil {
		return err
	}
	o.from.moved = false
	return nil
}

// direct makes o a reader of the bucket, which may be open already. The caller holds mu.
func (o *object) direct(remote storage.Object) (err error) {
	if remote == nil {
		if remote, err = o.opener.remote.Open(o.reading(), o.info.Key); err != nil {
			return err
		}
		if remote.SHA256() != o.sum() {
			_ = remote.Close()
			return o.failed(errReplaced)
		}
	}
	if o.from.object != nil {
		_ = o.from.object.Close()
	}
	f := o.from.fill
	o.from = from{object: remote, moved: true}
	if f != nil {
		f.leave(o)
	}
	return o.ready()
}

// errReplaced means that a reader cannot go on.
var errReplaced = errors.New("it was replaced while it was read, and the local disk failed")

// another finds another source after an error of one. The caller holds mu.
func (o *object) another(err error) error {
	switch {
	case o.from.stream != nil && errors.Is(err, errSpool):
	case o.from.object != nil && o.from.local && !passes(err):
		o.opener.cache.spoilt(o.reading(), o.info.Key, err)
	default:
		return err
	}
	return o.direct(nil)
}

// readStream reads from the fill.
func (o *object) readStream(p []byte) (int, error) {
	have, err := o.from.stream.wait(o.reading(), o.pos)
	if err != nil {
		return 0, err
	}
	n, err := o.from.stream.spool.ReadAt(p[:min(int64(len(p)), have-o.pos)], o.pos)
	if n > 0 {
		return n, nil
	}
	if err != nil && !passes(err) {
		err = fmt.Errorf("%w: %w", errSpool, err)
	}
	return 0, err
}

// pieceSize is the size of the buffer of a reader that follows a draft.
const pieceSize = 64 << 10

func (o *object) WriteTo(w io.Writer) (written int64, err error) {
	out := &o.out
	*out = outgoing{w: w}
	defer func() { *out = outgoing{} }()
	for {
		n, more, err := o.writeSome(out)
		written += n
		if err != nil || !more {
			return written, err
		}
	}
}

// writeSome writes a part of the content, and reports whether there is more. While w is busy the source may
// be changed by give.
func (o *object) writeSome(out *outgoing) (n int64, more bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.check(); err != nil {
		return 0, false, err
	}
	if o.pos >= o.info.Size {
		return 0, false, nil
	}
	if err := o.ready(); err != nil {
		return 0, false, err
	}
	if source := o.from.object; source != nil {
		o.mu.Unlock() // nothing but this goroutine changes an object
		n, err = source.WriteTo(out)
		o.mu.Lock()
		o.pos += n
		if err == nil || out.err != nil {
			return n, false, err
		}
		return n, true, o.another(err)
	}
	part, err := o.part(out)
	if err != nil {
		return 0, true, o.another(err)
	}
	o.mu.Unlock()
	written, err := out.Write(part)
	o.mu.Lock()
	o.pos += int64(written)
	o.from.moved = true // if it was changed meanwhile
	return int64(written), true, err
}

// part returns the next bytes of the fill, at most a piece.
func (o *object) part(out *outgoing) ([]byte, error) {
	s := o.from.stream
	have, err := s.wait(o.reading(), o.pos)
	if err != nil {
		return nil, err
	}
	if b, ok := s.spool.(*buffer); ok {
		if part := b.view(o.pos); int64(len(part)) > 0 {
			return part[:min(int64(len(part)), have-o.pos)], nil
		}
	}
	if out.buffer == nil {
		out.buffer = make([]byte, pieceSize)
	}
	n, err := o.readStream(out.buffer)
	return out.buffer[:n], err
}

// outgoing remembers an error of the writer, which is not one of the source.
type outgoing struct {
	w      io.Writer
	buffer []byte // nil: it was not needed
	err    error
}

func (out *outgoing) Write(p []byte) (int, error) {
	n, err := out.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		out.err = err
	}
	return n, err
}

func (o *object) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return o.failed(fs.ErrClosed)
	}
	o.closed = true
	if o.from.fill != nil {
		o.from.fill.leave(o)
	}
	if o.from.object != nil {
		return o.from.object.Close()
	}
	return nil
}
