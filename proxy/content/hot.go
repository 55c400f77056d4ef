package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"io"
	"strconv"
	"sync/atomic"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// hot keeps recently requested objects of an origin in memory, by path, with their parsed paths and
// headers: this halves the cost of a hit. Those that are dropped are still in the store, and in the
// page cache. An object of a module is never outdated, because it never changes and was proved before;
// a reply of a checksum database has the newest head, and says itself whether it is current.
//
// The public origin also keeps such replies. They and large objects are kept when they are requested
// again: what is requested once would cost a copy. Large ones have a limit of their own, because a few
// of them would displace many small ones. A client that requests all objects once does not displace
// what others request again, see memo.Map.
type hot struct {
	small, large memo.Map[string, *HotObject]
	asked        doorkeeper
}

// newHot makes a hot of at most limit bytes.
func newHot(limit int) *hot {
	size := func(path string, o *HotObject) int { return o.size(path) }
	h := &hot{asked: doorkeeper{seed: maphash.MakeSeed()}}
	h.large.Limit, h.large.Size = limit/largeShare, size
	h.small.Limit, h.small.Size = limit-h.large.Limit, size
	return h
}

// get returns the current object at path, or nil.
func (h *hot) get(path string) *HotObject {
	o, ok := h.small.Get(path)
	if !ok {
		o, ok = h.large.Get(path)
	}
	if !ok || o.current != nil && !o.current() {
		return nil
	}
	return o
}

// wants reports whether an object of size bytes that was requested at path is to be kept.
func (h *hot) wants(path string, size int64) bool {
	return size <= HotSize || size <= hotLimit && h.asked.again(path)
}

func (h *hot) put(path string, o *HotObject) {
	if len(o.Content) > HotSize {
		h.large.Put(path, o)
		return
	}
	h.small.Put(path, o)
}

func (h *hot) remove(path string) {
	h.small.Delete(path)
	h.large.Delete(path)
}

func (h *hot) clear() {
	h.small.Clear()
	h.large.Clear()
}

// doorkeeper remembers some of the paths that were requested last.
type doorkeeper struct {
	seed  maphash.Seed
	slots [4096]atomic.Uint64 // each has the hash of the last path that belongs there
}

// again reports whether path was requested before, as far as is known, and remembers it.
func (d *doorkeeper) again(path string) bool {
	hash := maphash.String(d.seed, path)
	return d.slots[hash%uint64(len(d.slots))].Swap(hash) == hash
}

// HotObject is an object, or a reply of a checksum database, in memory. It is shared, and never
// changed.
type HotObject struct {
	Req     request.Request
	Content []byte
	ETag    []string // the header with it, as Length is
	Length  []string
	Caching []string // the header Cache-Control; nil: that of the origin

	info    storage.Info
	sum     [sha256.Size]byte // of the content
	current func() bool       // nil: it always is
}

const (
	// HotSize is the size up to which objects are kept when they are first requested: nearly every
	// go.mod is smaller. The memory of a response of this size is part of its connection.
	HotSize = 8 << 10

	// hotLimit is the largest object kept: half of all zips are smaller.
	hotLimit = 64 << 10

	// largeShare is the part of the memory for objects of more than HotSize.
	largeShare = 4

	// hotOverhead is about how much memory an object takes besides its content and its
	// path.
	hotOverhead = 576
)

// newHotObject makes an object for content.
func newHotObject(req request.Request, content []byte, sum [sha256.Size]byte) *HotObject {
	return &HotObject{Req: req, Content: content, ETag: []string{ETag(sum)}, Length: []string{strconv.Itoa(len(content))}, sum: sum}
}

// size is how many bytes o takes at path, where the path is a key and in o.
func (o *HotObject) size(path string) int { return len(o.Content) + 3*len(path) + hotOverhead }

// readHot reads an object into memory.
func readHot(req request.Request, object storage.Object) (*HotObject, error) {
	content := make([]byte, object.Info().Size)
	if _, err := io.ReadFull(object, content); err != nil {
		return nil, err
	}
	o := newHotObject(req, content, object.SHA256())
	o.info = object.Info()
	return o, nil
}

// open returns the object for one reader.
func (o *HotObject) open() storage.Object {
	return &hotReader{Reader: *bytes.NewReader(o.Content), HotObject: o}
}

// hotReader is an open HotObject.
type hotReader struct {
	bytes.Reader
	*HotObject
}

func (r *hotReader) Info() storage.Info        { return r.info }
func (r *hotReader) SHA256() [sha256.Size]byte { return r.sum }
func (r *hotReader) Close() error              { return nil }

// Tag returns the header with the entity tag, which must not be changed.
func (r *hotReader) Tag() []string { return r.ETag }

// ETag returns the strong entity tag of content with the SHA-256 sum.
func ETag(sum [sha256.Size]byte) string { return `"sha256:` + hex.EncodeToString(sum[:]) + `"` }
