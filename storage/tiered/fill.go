package tiered

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/storage"
)

const (
	// smallSize is the size up to which a content arrives with its record: the bucket needs no second request.
	smallSize = 256 << 10

	// maxBuffer is the size up to which a content stays in memory until it is stored, if there is some.
	maxBuffer = 16 << 20

	// maxDrafts is how many contents are written to the local disk while they arrive, maxPuts how many of
	// those in memory. More of the first are not stored, more of the second wait.
	maxDrafts = 4
	maxPuts   = 16

	// patience is how long a reader waits for the local disk before it reads from the bucket alone.
	patience = 5 * time.Second
)

// fills are the contents that are on their way to the local store.
type fills struct {
	cache    *cache
	remote   storage.Store
	budget   budget
	scope    *flight.Scope
	metrics  *metrics
	patience time.Duration
	drafts   chan struct{}
	puts     chan struct{}

	mu    sync.Mutex
	byKey map[string]*fill
}

// follower is a reader of a fill.
type follower interface {
	// give offers the complete object of the local store in place of the fill. It reports whether the
	// reader takes it; then the reader closes it.
	give(o storage.Object) bool
}

// fill is one content on its way.
type fill struct {
	fills  *fills
	ticket *ticket
	cancel context.CancelFunc // of opening

	opened chan struct{} // closed when the fields of found are set
	found
	users  // guarded by fills.mu
	source // guarded by its mutex
}

// found is the object in the bucket.
type found struct {
	err   error // why there is none
	info  storage.Info
	sum   [sha256.Size]byte
	local bool // the local store has it, and it is trusted now
}

// users are why a fill is not released yet.
type users struct {
	readers map[follower]struct{}
	workers int // goroutines that fill or store
	over    bool
}

// source is where the bytes of a fill are: in stream, once they arrive for all, or in object.
type source struct {
	mu      sync.Mutex
	object  storage.Object // open in the bucket; nil: it is used
	stream  *stream        // nil: they do not arrive for all
	drafted bool           // stream is in a draft of the local store
}

// join adds a reader to the fill of a key, which it begins if there is none. The reader must leave it.
func (fs *fills) join(ctx context.Context, key string, r follower) (f *fill, shared bool, err error) {
	if f, shared, err = fs.enter(ctx, key, r); err != nil {
		return nil, shared, err
	}
	select {
	case <-f.opened:
		err = f.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		f.leave(r)
		return nil, shared, err
	}
	return f, shared, nil
}

func (fs *fills) enter(ctx context.Context, key string, r follower) (f *fill, shared bool, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f = fs.byKey[key]; f != nil && f.ticket.valid() {
		f.readers[r] = struct{}{}
		return f, true, nil
	}
	opening, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f = fs.newFill(fs.cache.lines.take(key))
	f.cancel = cancel
	f.readers[r] = struct{}{}
	if !f.work(func(ctx context.Context) error { return f.open(opening, ctx) }) {
		cancel()
		f.ticket.back()
		return nil, false, errClosed
	}
	fs.byKey[key] = f
	return f, false, nil
}

// info returns what is known of an object that is on its way to the local store.
func (fs *fills) info(key string) (info storage.Info, ok bool) {
	fs.mu.Lock()
	f := fs.byKey[key]
	fs.mu.Unlock()
	if f == nil || !f.ticket.valid() {
		return storage.Info{}, false
	}
	select {
	case <-f.opened:
		return f.info, f.err == nil
	default:
		return storage.Info{}, false
	}
}

// errClosed is the error of a closed store.
var errClosed = fs.ErrClosed

func (fs *fills) newFill(t *ticket) *fill {
	return &fill{fills: fs, ticket: t, cancel: func() {}, opened: make(chan struct{}), users: users{readers: map[follower]struct{}{}}}
}

// add makes a content that the bucket has accepted available to readers, and stores it. It closes the
// spool and gives the ticket back in the end.
func (fs *fills) add(t *ticket, info storage.Info, sum [sha256.Size]byte, s spool) {
	f := fs.newFill(t)
	f.info, f.sum = info, sum
	f.stream = newStream(s, fs.patience)
	f.stream.have, f.stream.ended = info.Size, true
	close(f.opened)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if !f.work(f.put) {
		_ = s.Close()
		t.back()
		return
	}
	fs.byKey[t.key] = f
}

// work does a part of the work of a fill in a goroutine. The caller holds fills.mu.
func (f *fill) work(do func(context.Context) error) bool {
	f.workers++
	started := f.fills.scope.Go(func(ctx context.Context) {
		if err := f.fills.scope.Guard(f.ticket.key, func() error { return do(ctx) }); err != nil {
			f.fail(err)
		}
		f.fills.mu.Lock()
		if f.workers--; f.workers == 0 {
			f.fills.metrics.filling.Dec()
		}
		f.fills.mu.Unlock()
		f.release()
	})
	if !started {
		f.workers--
	} else if f.workers == 1 {
		f.fills.metrics.filling.Inc()
	}
	return started
}

// fail ends a fill: readers get the error.
func (f *fill) fail(err error) {
	f.forget()
	select {
	case <-f.opened:
	default: // it was opening that failed, which sets these
		f.err = err
		close(f.opened)
	}
	f.source.mu.Lock()
	defer f.source.mu.Unlock()
	if f.stream != nil {
		f.stream.end(err)
	}
}

// open opens the object in the bucket. A small content arrives with it.
func (f *fill) open(opening, life context.Context) error {
	cache, key := f.fills.cache, f.ticket.key
	object, err := f.fills.remote.Open(opening, key)
	trusted := cache.trust.has(key)
	if errors.Is(err, fs.ErrNotExist) && !trusted {
		_ = cache.drop(opening, f.ticket)
	}
	if err != nil {
		return err
	}
	f.info, f.sum = object.Info(), object.SHA256()
	if f.local = !trusted && cache.check(opening, f.ticket, f.info, f.sum); f.local {
		f.forget()
		close(f.opened)
		return object.Close()
	}
	var b *buffer
	if f.info.Size <= smallSize {
		b = f.fills.budget.buffer(opening, f.info.Size)
	}
	if b == nil {
		f.source.mu.Lock()
		f.object = object
		f.source.mu.Unlock()
		close(f.opened)
		return nil
	}
	defer object.Close()
	f.source.mu.Lock()
	f.stream = newStream(b, f.fills.patience)
	f.source.mu.Unlock()
	if err := f.receive(object); err != nil {
		return err
	}
	close(f.opened)
	return f.put(life)
}

// receive writes the content into the stream.
func (f *fill) receive(object storage.Object) error {
	n, err := object.WriteTo(f.stream)
	f.fills.metrics.bytes.Add(float64(n))
	switch {
	case err == nil && n != f.info.Size:
		err = io.ErrUnexpectedEOF
	case errors.Is(err, errSpool):
		f.fills.cache.count(err)
	}
	f.stream.end(err)
	return err
}

// put stores a content that is complete.
func (f *fill) put(ctx context.Context) error {
	f.fills.puts <- struct{}{}
	defer func() { <-f.fills.puts }()
	f.stored(ctx, f.fills.cache.put(ctx, f.ticket, f.info, f.stream.spool))
	return nil
}

// stored ends a fill whose content was stored or not. Readers of a large one get the local object, so that
// one that is slow holds no memory.
func (f *fill) stored(ctx context.Context, err error) {
	f.forget()
	if err != nil || f.info.Size <= smallSize {
		return
	}
	for _, r := range f.followers() {
		o, err := f.fills.cache.open(ctx, f.ticket.key)
		if err != nil {
			return
		}
		if o.SHA256() != f.sum || !r.give(o) {
			_ = o.Close()
			continue
		}
		f.leave(r)
	}
}

func (f *fill) followers() (all []follower) {
	f.fills.mu.Lock()
	defer f.fills.mu.Unlock()
	for r := range f.readers {
		all = append(all, r)
	}
	return all
}

// follow returns the stream for a reader at a position. If the content does not arrive for all, it returns
// the object in the bucket, which is for this reader then, or neither.
func (f *fill) follow(ctx context.Context, position int64) (*stream, storage.Object) {
	f.source.mu.Lock()
	defer f.source.mu.Unlock()
	if f.stream == nil && f.object != nil && position == 0 && f.ticket.valid() {
		f.begin(ctx)
	}
	if f.stream != nil && position <= f.stream.arrived() {
		return f.stream, nil
	}
	object := f.object
	f.object = nil
	return nil, object
}

// begin begins to read the content for all, if there is a place for it. The caller holds source.mu.
func (f *fill) begin(ctx context.Context) {
	if b := f.buffer(ctx); b != nil {
		f.gather(b)
		return
	}
	object, d := f.object, f.draft(ctx)
	if d == nil {
		f.fills.metrics.skipped.Inc()
		return
	}
	f.drafted = true
	f.start(d, func(ctx context.Context) error {
		defer func() { <-f.fills.drafts }()
		defer object.Close()
		if err := f.receive(object); err != nil {
			return err
		}
		f.stored(ctx, f.fills.cache.commit(ctx, f.ticket, f.info, d))
		return nil
	})
}

// warm begins to read the content into memory if there is some and take agrees, and nothing else: a draft needs a reader.
func (f *fill) warm(ctx context.Context, take func(size int64) bool) {
	f.source.mu.Lock()
	defer f.source.mu.Unlock()
	if f.stream != nil || f.object == nil || !f.ticket.valid() {
		return
	}
	b := f.buffer(ctx)
	switch {
	case b == nil:
	case take(f.info.Size):
		f.gather(b)
	default:
		_ = b.Close()
	}
}

// gather reads the content into memory, and stores it. The caller holds source.mu.
func (f *fill) gather(b *buffer) {
	object := f.object
	f.start(b, func(ctx context.Context) error {
		defer object.Close()
		if err := f.receive(object); err != nil {
			return err
		}
		return f.put(ctx)
	})
}

func (f *fill) buffer(ctx context.Context) *buffer {
	if f.info.Size > maxBuffer {
		return nil
	}
	return f.fills.budget.buffer(ctx, f.info.Size)
}

// draft returns a draft of the local store, nil if it has none or too many are open.
func (f *fill) draft(ctx context.Context) storage.Draft {
	select {
	case f.fills.drafts <- struct{}{}:
	default:
		return nil
	}
	d, err := f.fills.cache.store.Draft(context.WithoutCancel(ctx), f.info.Size)
	if err != nil {
		<-f.fills.drafts
		f.fills.cache.count(err)
		return nil
	}
	return d
}

// start makes s the place of the content, which do writes. The caller holds source.mu.
func (f *fill) start(s spool, do func(context.Context) error) {
	f.object, f.stream = nil, newStream(s, f.fills.patience)
	f.fills.mu.Lock()
	defer f.fills.mu.Unlock()
	if !f.work(do) {
		f.stream.end(errClosed)
	}
}

// stop ends what is read from the bucket. What is complete is stored.
func (fs *fills) stop() {
	fs.mu.Lock()
	var all []*fill
	for _, f := range fs.byKey {
		all = append(all, f)
	}
	fs.mu.Unlock()
	for _, f := range all {
		f.cancel()
		f.source.mu.Lock()
		if f.stream != nil {
			f.stream.leave()
		}
		f.source.mu.Unlock()
	}
}

// leave says that a reader does not need the fill any more. A draft that no reader follows is not
// continued; what is in memory is.
func (f *fill) leave(r follower) {
	f.source.mu.Lock()
	s := f.stream
	unwanted := s == nil || f.drafted
	f.source.mu.Unlock()
	f.fills.mu.Lock()
	delete(f.readers, r)
	unwanted = unwanted && len(f.readers) == 0
	if unwanted {
		f.remove()
	}
	f.fills.mu.Unlock()
	if unwanted {
		f.cancel()
		if s != nil {
			s.leave()
		}
	}
	f.release()
}

// forget makes later readers begin another fill.
func (f *fill) forget() {
	f.fills.mu.Lock()
	defer f.fills.mu.Unlock()
	f.remove()
}

// remove is forget for a caller that holds fills.mu.
func (f *fill) remove() {
	if f.fills.byKey[f.ticket.key] == f {
		delete(f.fills.byKey, f.ticket.key)
	}
}

// release frees what a fill has when nothing uses it any more.
func (f *fill) release() {
	f.fills.mu.Lock()
	over := !f.over && f.workers == 0 && len(f.readers) == 0
	if over {
		f.over = true
		f.remove()
	}
	f.fills.mu.Unlock()
	if !over {
		return
	}
	f.cancel()
	f.source.mu.Lock()
	defer f.source.mu.Unlock()
	if f.object != nil {
		_ = f.object.Close()
	}
	if f.stream != nil {
		_ = f.stream.spool.Close()
	}
	f.ticket.back()
}
