package content

import (
	"crypto/sha256"
	"errors"
	"io"
	"sync"

	"github.com/assay-proxy/assay/storage"
)

// passedOn returns what has arrived as an object. The error is errMiss if that is not proved, or closed already.
// The fill has ended.
func (f *fill) passedOn() (storage.Object, error) {
	if f.proved == nil || !f.arrived.acquire() {
		return nil, errMiss
	}
	return &passedObject{SectionReader: io.NewSectionReader(f.arrived, 0, f.proved.Size), of: f.arrived, info: *f.proved}, nil
}

// passedObject is a proved zip that is not stored.
type passedObject struct {
	*io.SectionReader
	of   *arrived
	info storage.Info
	once sync.Once
	sum  [sha256.Size]byte
}

// passedPiece is how many bytes of a zip are read and written at a time.
const passedPiece = 64 << 10

// Info implements storage.Object.
func (o *passedObject) Info() storage.Info { return o.info }

// WriteTo implements storage.Object.
func (o *passedObject) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{o.SectionReader}, make([]byte, passedPiece))
}

// SHA256 implements storage.Object. It is that of no content if the zip cannot be read: then its client gets an
// error when it reads.
func (o *passedObject) SHA256() [sha256.Size]byte {
	o.once.Do(func() {
		h := sha256.New()
		whole := io.NewSectionReader(o.of, 0, o.info.Size)
		if _, err := io.CopyBuffer(h, struct{ io.Reader }{whole}, make([]byte, passedPiece)); err == nil {
			o.sum = [sha256.Size]byte(h.Sum(nil))
		}
	})
	return o.sum
}

// Close implements storage.Object.
func (o *passedObject) Close() error {
	if o.of == nil {
		return errors.New("zip is closed already")
	}
	o.of.release()
	o.of = nil
	return nil
}
