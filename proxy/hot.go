package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// hot keeps small objects that were asked for, with their paths taken apart: it
// halves what a hit costs. Nothing in it is ever out of date, because an object
// never changes and is proved when it comes here.
//
// There is one for public objects and one for private ones: which of them a module is
// may change. Both are asked before the path is taken apart.
type hot struct {
	mu      sync.RWMutex
	objects map[string]*hotObject // by path
	bytes   int
	limit   int // of bytes
}

// hotObject is an object in memory. It is shared, nobody changes it.
type hotObject struct {
	req     request.Request
	info    storage.Info
	sum     [sha256.Size]byte // of the content
	etag    []string          // the header with it
	content []byte
}

const (
	// hotSize is the largest object kept: nearly every go.mod is smaller.
	hotSize = 8 << 10

	// hotOverhead is what an object takes besides its content and its path, about.
	hotOverhead = 512
)

// size is how many bytes o takes at path, where the path is a key and in o.
func (o *hotObject) size(path string) int { return len(o.content) + 3*len(path) + hotOverhead }

// find returns the object at path, or nil.
func (h *hot) find(path string) *hotObject {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.objects[path]
}

// note keeps an object. When there is no more room all the others go: they are
// still in the store, and the page cache.
func (h *hot) note(path string, o *hotObject) {
	size := o.size(path)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.objects == nil || h.bytes+size > h.limit {
		h.objects, h.bytes = map[string]*hotObject{}, 0
	}
	if h.objects[path] == nil {
		h.objects[path] = o
		h.bytes += size
	}
}

// forget forgets the object at path, which has been replaced.
func (h *hot) forget(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o := h.objects[path]; o != nil {
		delete(h.objects, path)
		h.bytes -= o.size(path)
	}
}

// clear forgets everything.
func (h *hot) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.objects, h.bytes = nil, 0
}

// serveHot answers with an object in memory, if there is one, and reports whether it
// did.
func (s *Server) serveHot(a *answer, path string) (served bool, err error) {
	for _, private := range [...]bool{false, true} {
		o := s.hotFor(private).find(path)
		if o == nil {
			continue
		}
		a.kind, a.path = o.req.Kind, path
		if err := s.admit(a, o.req); err != nil {
			// A refusal must take as long as that of what is not here.
			_, _ = request.Parse(path)
			return false, err
		}
		if a.private == private && !a.unsure { // it may be the other one since a moment ago
			return true, s.serveHit(a, o.req, o.open())
		}
	}
	return false, nil
}

// open returns the object for one reader.
func (o *hotObject) open() storage.Object {
	return &hotReader{Reader: *bytes.NewReader(o.content), hotObject: o}
}

// hotFor returns the one for private objects, or for public ones.
func (s *Server) hotFor(private bool) *hot {
	if private {
		return &s.hotPrivate
	}
	return &s.hot
}

// keep reads a small object out of the store into memory, and closes it.
func (s *Server) keep(ctx context.Context, path string, req request.Request, private bool, object storage.Object) (storage.Object, error) {
	defer object.Close()
	sum := object.SHA256()
	o := &hotObject{req: req, info: object.Info(), sum: sum, etag: []string{etag(sum)}}
	o.content = make([]byte, o.info.Size)
	_, err := io.ReadFull(object, o.content)
	if errors.Is(err, storage.ErrDamaged) {
		s.drop(ctx, path, err)
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	s.hotFor(private).note(path, o)
	return o.open(), nil
}

// hotReader is an open hotObject.
type hotReader struct {
	bytes.Reader
	*hotObject
}

func (r *hotReader) Info() storage.Info        { return r.info }
func (r *hotReader) SHA256() [sha256.Size]byte { return r.sum }
func (r *hotReader) Close() error              { return nil }
