package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// hashZip returns the h1 hash of a module zip, as x/mod/sumdb/dirhash.HashZip does. It
// waits for the memory that it takes until ctx ends; a holder of it waits for the
// disk alone. The error is modzip.ErrFormat if the file is none.
func (s *Server) hashZip(ctx context.Context, file *os.File) (hash string, err error) {
	err = s.withZip(ctx, file, func(z *modzip.Zip) error {
		hash, err = z.Hash(ctx, s.scratch)
		return err
	})
	return hash, err
}

// checkZip returns why a file is not the zip of a module that a go command could use.
func (s *Server) checkZip(ctx context.Context, mod module.Version, file *os.File) error {
	return s.withZip(ctx, file, func(z *modzip.Zip) error { return z.Check(mod, s.scratch) })
}

// withZip calls do with the zip in a file. It waits for the memory that do may take until
// ctx ends.
func (s *Server) withZip(ctx context.Context, file *os.File, do func(*modzip.Zip) error) error {
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	held := s.config.Memory.Proofs.HoldFor(ctx)
	if err := held.Grow(ctx, modzip.Memory); err != nil {
		return err
	}
	defer held.Free()
	z, err := modzip.Open(file, stat.Size())
	if err == nil {
		err = do(z)
	}
	if errors.Is(err, modzip.ErrTooLarge) {
		return fmt.Errorf("%w: %w", fetch.ErrTooLarge, err)
	}
	return err
}

// checkShape returns an error if the zip has bytes that its h1 hash does not cover.
func checkShape(file *os.File) error {
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	return modzip.CheckShape(file, stat.Size())
}

// scratch makes an empty file beside the spools.
func (s *Server) scratch() (*os.File, error) { return createSpool(s.config.Spool) }

// hashMod returns the h1 hash of a go.mod, as go.sum has it.
func hashMod(content io.Reader) (string, error) {
	return dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(content), nil
	})
}

// CheckStored returns an error if a stored object is a zip with bytes that no hash
// covers, which earlier versions kept. Any other object is not looked at. The error
// is modzip.ErrShape, or of reading the object.
func CheckStored(object storage.Object) error {
	info := object.Info()
	if req, err := request.Parse(info.Key); err != nil || req.Kind != request.Zip {
		return nil
	}
	return modzip.CheckShape(objectReader{object}, info.Size)
}

// objectReader reads a stored object from anywhere.
type objectReader struct{ object storage.Object }

func (r objectReader) ReadAt(p []byte, at int64) (int, error) {
	if _, err := r.object.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	return io.ReadFull(r.object, p)
}
