package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// hot keeps recently requested small objects of an origin in memory, by path, with their
// parsed paths: this halves the cost of a hit. They are never outdated, because an object
// never changes and was proved before. Those that are dropped are still in the store, and
// in the page cache.
type hot = memo.Map[string, *HotObject]

// newHot makes a hot of at most limit bytes.
func newHot(limit int) *hot {
	return &hot{Limit: limit, Size: func(path string, o *HotObject) int { return o.size(path) }}
}

// HotObject is an object in memory. It is shared, and never changed.
type HotObject struct {
	Req request.Request

	info    storage.Info
	sum     [sha256.Size]byte // of the content
	etag    []string          // the header with it
	content []byte
}

const (
	// HotSize is the largest object kept: nearly every go.mod is smaller.
	HotSize = 8 << 10

	// hotOverhead is about how much memory an object takes besides its content and its
	// path.
	hotOverhead = 512
)

// size is how many bytes o takes at path, where the path is a key and in o.
func (o *HotObject) size(path string) int { return len(o.content) + 3*len(path) + hotOverhead }

// readHot reads an object into memory.
func readHot(req request.Request, object storage.Object) (*HotObject, error) {
	sum := object.SHA256()
	o := &HotObject{Req: req, info: object.Info(), sum: sum, etag: []string{ETag(sum)}}
	o.content = make([]byte, o.info.Size)
	_, err := io.ReadFull(object, o.content)
	return o, err
}

// open returns the object for one reader.
func (o *HotObject) open() storage.Object {
	return &hotReader{Reader: *bytes.NewReader(o.content), HotObject: o}
}

// hotReader is an open HotObject.
type hotReader struct {
	bytes.Reader
	*HotObject
}

func (r *hotReader) Info() storage.Info        { return r.info }
func (r *hotReader) SHA256() [sha256.Size]byte { return r.sum }
func (r *hotReader) Close() error              { return nil }

// ETag returns the header with the entity tag, which must not be changed.
func (r *hotReader) ETag() []string { return r.etag }

// ETag returns the strong entity tag of content with the SHA-256 sum.
func ETag(sum [sha256.Size]byte) string { return `"sha256:` + hex.EncodeToString(sum[:]) + `"` }
