package content

import (
	"context"
	"io"
	"sync"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// streamStep is how many bytes of a zip are sent between two checks of whether it is
// stored.
const streamStep = 256 << 10

// Arriving is a zip that a client follows while it arrives. The last part waits for the
// proof.
type Arriving struct {
	f       *filling
	shelf   *shelf
	client  Client
	path    string
	release func() // of what has arrived
}

func newArriving(f *filling, s *shelf, q *Ask) *Arriving {
	return &Arriving{f: f, shelf: s, client: q.Client, path: q.Path, release: sync.OnceFunc(f.Value.arrived.release)}
}

// Request returns the request for the zip.
func (a *Arriving) Request() request.Request { return a.f.Value.req }

// Size returns the size of the zip.
func (a *Arriving) Size() int64 { return a.f.Value.size }

// Next waits for bytes after the first n, and returns those that may be sent before the
// proof; nil if the rest must wait for the proof.
func (a *Arriving) Next(ctx context.Context, n int64) (io.Reader, error) {
	public := a.f.Value.size - holdBack
	if n >= public || a.f.Ended() {
		return nil, nil
	}
	size, err := a.f.Value.arrived.wait(ctx, n, a.f.Done())
	if err != nil {
		return nil, err
	}
	if size = min(size, public, n+streamStep); size == n { // ended early
		return nil, nil
	}
	return a.section(n, size), nil
}

// Proof waits for the proof, and returns an error if there is none.
func (a *Arriving) Proof(ctx context.Context) error {
	select {
	case <-a.f.Done():
		return a.f.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Rest returns the bytes after the first n, after the proof: as the stored object, so
// that a slow client does not keep the draft open, or as a reader of the draft, if
// other bytes are stored: zips with the same h1 hash can have different bytes. The caller
// closes the object.
func (a *Arriving) Rest(ctx context.Context, n int64) (storage.Object, io.Reader) {
	if object := a.stored(ctx, n); object != nil {
		a.release()
		return object, nil
	}
	return nil, a.section(n, a.f.Value.size)
}

// stored opens the stored object after the first n bytes, nil if the draft must be used.
func (a *Arriving) stored(ctx context.Context, n int64) storage.Object {
	f := a.f.Value
	if !f.stored {
		return nil
	}
	object, err := a.shelf.open(ctx, a.client, f.req, f.key)
	if err != nil {
		return nil
	}
	if _, err = object.Seek(n, io.SeekStart); err == nil && object.Info().Size == f.size {
		return object
	}
	_ = object.Close() // it was only read
	return nil
}

func (a *Arriving) section(from, to int64) io.Reader {
	return io.NewSectionReader(a.f.Value.arrived, from, to-from)
}

// Close says that the client no longer follows the zip.
func (a *Arriving) Close() {
	a.release()
	a.f.Leave(a.client.Key())
}
