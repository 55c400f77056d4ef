package pinlog

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/storage"
)

// outsideFile is a guard in a file. The replicas that share it replace it one at a time, while they hold the lock
// of a file beside it.
type outsideFile struct {
	path   string
	writer string // random, part of the names of temporary files
}

func newOutsideFile(path string) outsideFile {
	random := make([]byte, 8)
	rand.Read(random)
	return outsideFile{path, hex.EncodeToString(random)}
}

func (f outsideFile) place() string { return f.path }

// read needs no lock: the file has a whole text at any moment.
func (f outsideFile) read(context.Context) ([]byte, error) {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

func (f outsideFile) replace(ctx context.Context, old, text []byte) error {
	lock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	now, err := f.read(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, old) {
		return storage.ErrConflict
	}
	f.removeLeft()
	return durable.ReplaceBy(f.path+"."+f.writer+durable.NewSuffix, f.path, text, 0o600)
}

// lock waits until no other replica replaces the file. Close releases the lock.
func (f outsideFile) lock(ctx context.Context) (*os.File, error) {
	lock, err := durable.OpenFile(f.path+".lock", 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := lockFile(lock)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, storage.ErrInUse) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w; put the guard on a file system that has locks, or in another bucket", lock.Name(), err), lock.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: another replica holds it: %w", lock.Name(), ctx.Err()), lock.Close())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// removeLeft removes temporary files that killed replicas have left. A younger one may be in use, if the lock does
// not reach another machine.
func (f outsideFile) removeLeft() {
	left, err := filepath.Glob(f.path + ".*" + durable.NewSuffix)
	if err != nil {
		return // the path has characters of a pattern; what is left takes place, and harms nothing
	}
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > time.Hour {
			os.Remove(path)
		}
	}
}
