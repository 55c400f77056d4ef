package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// zips hashes and checks the zips of modules, in a limited part of the memory.
type zips struct {
	dir    string // for scratch files
	budget *memory.Budget
	answer time.Duration // how long a client waits for memory
}

// hash returns the h1 hash of a module zip, as x/mod/sumdb/dirhash.HashZip does. It waits
// for its memory until ctx ends; a holder of this memory waits only for the disk. The
// error is modzip.ErrFormat if r is not a zip.
func (s zips) hash(ctx context.Context, r io.ReaderAt, size int64) (hash string, err error) {
	err = s.with(ctx, r, size, func(z *modzip.Zip) error {
		hash, err = z.Hash(ctx, s.scratch)
		return err
	})
	return hash, err
}

// hashRest is hash for a zip of which a part is hashed already.
func (s zips) hashRest(ctx context.Context, r io.ReaderAt, size int64, ahead *modzip.Ahead) (hash string, err error) {
	err = s.with(ctx, r, size, func(z *modzip.Zip) error {
		hash, err = z.HashAhead(ctx, ahead)
		return err
	})
	return hash, err
}

// check returns an error if r is not a module zip that a go command could use.
func (s zips) check(ctx context.Context, mod module.Version, r io.ReaderAt, size int64) error {
	return s.with(ctx, r, size, func(z *modzip.Zip) error { return z.Check(mod, s.scratch) })
}

// with calls do with the zip in r. It waits for the memory of do until ctx ends.
func (s zips) with(ctx context.Context, r io.ReaderAt, size int64, do func(*modzip.Zip) error) error {
	held := s.budget.HoldFor(ctx)
	if err := held.Grow(ctx, modzip.Memory); err != nil {
		return err
	}
	defer held.Free()
	z, err := modzip.Open(r, size)
	if err == nil {
		err = do(z)
	}
	if errors.Is(err, modzip.ErrTooLarge) {
		return fmt.Errorf("%w: %w", fetch.ErrTooLarge, err)
	}
	return err
}

// checkMade returns an error if mod is the go.mod that the go command makes for a module
// without one, but the zip has one: the go command cannot distinguish a git that was
// killed while it read the file, for instance because memory was short, from one that
// found no file.
func (s zips) checkMade(ctx context.Context, of module.Version, mod []byte, zip io.ReaderAt, size int64) error {
	made := madeMod(of.Path)
	if string(mod) != made {
		return nil
	}
	return s.with(ctx, zip, size, func(z *modzip.Zip) error {
		return z.Entries(func(e modzip.Entry) error {
			// By .gitattributes the file in the zip may have a carriage return.
			if e.Name == of.String()+"/go.mod" && e.Size != uint64(len(made)) && e.Size != uint64(len(made)+1) {
				return fmt.Errorf("%w: git did not print the module's go.mod", vcs.ErrTools)
			}
			return nil
		})
	})
}

// madeMod returns the go.mod that the go command makes for a module without one.
func madeMod(modulePath string) string { return "module " + modfile.AutoQuote(modulePath) + "\n" }

// hashStored returns the hash of the stored bytes.
func (s zips) hashStored(ctx context.Context, kind request.Kind, object storage.Object) (string, error) {
	if kind == request.Mod {
		hash, err := hashMod(object)
		if err == nil {
			_, err = object.Seek(0, io.SeekStart)
		}
		return hash, err
	}
	// A client waits: for the memory no longer than for any response.
	wait, cancel := context.WithTimeout(ctx, s.answer)
	defer cancel()
	hash := ""
	err := s.with(wait, &sharedReader{object: objectReader{object}}, object.Info().Size, func(z *modzip.Zip) (err error) {
		hash, err = z.Hash(ctx, s.scratch)
		return err
	})
	if errors.Is(err, modzip.ErrFormat) {
		hash, err = notZip(err), nil
	}
	if err != nil {
		return "", err
	}
	_, err = object.Seek(0, io.SeekStart)
	return hash, err
}

// scratch makes an empty scratch file.
func (s zips) scratch() (*os.File, error) { return createScratch(s.dir) }

// hashMod returns the h1 hash of a go.mod, as in go.sum.
func hashMod(content io.Reader) (string, error) {
	return dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(content), nil
	})
}

// notZip stands for the hash of a file that is not a zip.
func notZip(err error) string { return text.Line(err.Error()) }

// CheckStored returns an error if a stored object is a zip with bytes that no hash
// covers, which earlier versions stored. It does not read other objects. The error is
// modzip.ErrShape, or of reading the object.
func CheckStored(object storage.Object) error {
	info := object.Info()
	key := info.Key // the path alone, until an old store is moved
	if _, path, ok := storage.CutVoucher(key); ok {
		key = path
	}
	if req, err := request.Parse(key); err != nil || req.Kind != request.Zip {
		return nil
	}
	return modzip.CheckShape(objectReader{object}, info.Size)
}

// objectReader reads a stored object at any offset.
type objectReader struct{ object storage.Object }

func (r objectReader) ReadAt(p []byte, at int64) (int, error) {
	if _, err := r.object.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.object, p)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF // as an io.ReaderAt has it
	}
	return n, err
}

// sharedReader lets several goroutines read a stored object.
type sharedReader struct {
	mu     sync.Mutex
	object objectReader
}

func (r *sharedReader) ReadAt(p []byte, at int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.object.ReadAt(p, at)
}
