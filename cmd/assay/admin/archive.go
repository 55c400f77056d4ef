package admin

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// source is the data directory of a backup.
type source struct {
	data    string
	store   storage.Store
	version string // of the program
}

// write writes a backup. The store comes first: it remembers the size of the own log, and a log
// that is smaller refuses to sign.
func (s *source) write(ctx context.Context, out io.Writer) error {
	store, ok := s.store.(storage.Archiver)
	if !ok {
		return errors.New("this kind of store cannot be backed up; use the means of the store itself")
	}
	a := &archive{ctx: ctx, to: tar.NewWriter(out), manifest: Manifest{Format: manifestFormat, Program: s.version, Time: time.Now().UTC().Truncate(time.Second)}}
	err := store.Backup(ctx, func(f storage.BackupFile) error { return a.add(f.Name, f.Size, f.Content) })
	if err != nil {
		return err
	}
	if err := a.addLog(filepath.Join(s.data, logDir)); err != nil {
		return err
	}
	if err := a.addPath(tokensName, filepath.Join(s.data, tokensName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := a.addDir(evidenceDir, filepath.Join(s.data, evidenceDir)); err != nil {
		return err
	}
	return a.close()
}

// archive is a backup during its write.
type archive struct {
	ctx      context.Context
	to       *tar.Writer
	manifest Manifest
}

// addLog adds the own log, with a mark beside it: a restored copy must not sign.
func (a *archive) addLog(dir string) error {
	names, err := pinlog.BackupFiles(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	mark := fmt.Sprintf("The log in this directory is the backup of %s. It signs nothing before assay log adopt.\n", a.manifest.Time.Format(time.RFC3339))
	if err := a.add(path.Join(logDir, pinlog.BackupMark), int64(len(mark)), text(mark)); err != nil {
		return err
	}
	for _, name := range names {
		if err := a.addPath(path.Join(logDir, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// text is a content in memory.
type text string

func (t text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(t))
	return int64(n), err
}

// addDir adds the files in a directory.
func (a *archive) addDir(name, dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		if !f.Type().IsRegular() {
			continue
		}
		err := a.addPath(path.Join(name, f.Name()), filepath.Join(dir, f.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // an administrator may have moved it away
			return err
		}
	}
	return nil
}

// addPath adds a file with its current size: the file may grow meanwhile.
func (a *archive) addPath(name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.add(name, info.Size(), &beginning{f, info.Size()})
}

// beginning is the first bytes of a file.
type beginning struct {
	file *os.File
	size int64
}

func (b *beginning) WriteTo(w io.Writer) (int64, error) { return io.CopyN(w, b.file, b.size) }

// add adds a file.
func (a *archive) add(name string, size int64, content io.WriterTo) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	err := a.to.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: a.manifest.Time})
	if err != nil {
		return err
	}
	hash := sha256.New()
	if _, err := content.WriteTo(io.MultiWriter(a.to, hash)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	a.manifest.Files = append(a.manifest.Files, File{name, size, hex.EncodeToString(hash.Sum(nil))})
	return nil
}

// close adds the manifest, which does not list itself.
func (a *archive) close() error {
	data, err := json.MarshalIndent(a.manifest, "", "\t")
	if err != nil {
		return err
	}
	if err := a.add(manifestName, int64(len(data)), text(data)); err != nil {
		return err
	}
	return a.to.Close()
}
