package admin

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/assay-proxy/assay/internal/durable"
)

// ErrNotWhole means that a backup is cut off, damaged or invalid.
var ErrNotWhole = errors.New("not a whole backup")

const (
	maxManifest = 64 << 20
	pieceSize   = 1 << 20 // of a file, which is written at once
)

// unpack reads an archive to its end and compares it with its manifest. If dir is not "", unpack
// writes its files there; they are on disk when it returns.
func unpack(in io.Reader, dir string) (Manifest, error) {
	m, err := readArchive(bufio.NewReaderSize(in, pieceSize), dir)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
		err = fmt.Errorf("%w: %w", ErrNotWhole, err)
	}
	return m, err
}

func readArchive(in io.Reader, dir string) (Manifest, error) {
	var files []File
	for archive := tar.NewReader(in); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return Manifest{}, fmt.Errorf("%w: it has no %s", ErrNotWhole, manifestName)
		}
		if err != nil {
			return Manifest{}, err
		}
		if header.Name == manifestName {
			m, err := readManifest(archive, files)
			if err != nil {
				return m, err
			}
			if header, err := archive.Next(); err == nil {
				return m, fmt.Errorf("%w: %s follows its %s", ErrNotWhole, header.Name, manifestName)
			} else if err != io.EOF {
				return m, err
			}
			_, err = io.Copy(io.Discard, in) // its sender may send more
			return m, err
		}
		if err := checkName(header, files); err != nil {
			return Manifest{}, err
		}
		f, err := unpackFile(archive, header, dir)
		if err != nil {
			return Manifest{}, err
		}
		files = append(files, f)
	}
}

// readManifest reads the manifest, which must list these files.
func readManifest(in io.Reader, files []File) (m Manifest, err error) {
	data, err := io.ReadAll(io.LimitReader(in, maxManifest))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%w: its %s: %w", ErrNotWhole, manifestName, err)
	}
	if m.Format != manifestFormat {
		return m, fmt.Errorf("the backup has the format %d, this program knows %d; use the program that made it, %s", m.Format, manifestFormat, m.Program)
	}
	if len(m.Files) != len(files) {
		return m, fmt.Errorf("%w: it has %d files, and its %s names %d", ErrNotWhole, len(files), manifestName, len(m.Files))
	}
	for _, f := range m.Files {
		if !slices.Contains(files, f) {
			return m, fmt.Errorf("%w: %s is missing or damaged", ErrNotWhole, f.Name)
		}
	}
	return m, nil
}

// checkName refuses names that no backup contains: they might lead outside.
func checkName(header *tar.Header, files []File) error {
	dir, name, below := strings.Cut(header.Name, "/")
	known := ofBackup(dir, below)
	if !below {
		name = dir
	}
	again := slices.ContainsFunc(files, func(f File) bool { return f.Name == header.Name })
	if header.Typeflag != tar.TypeReg || !known || again || !filepath.IsLocal(name) || strings.ContainsAny(name, `/\`) {
		return fmt.Errorf("%w: no backup has a file %q", ErrNotWhole, header.Name)
	}
	return nil
}

func unpackFile(in io.Reader, header *tar.Header, dir string) (File, error) {
	sum := sha256.New()
	if dir == "" {
		n, err := io.Copy(sum, in)
		return fileOf(header, n, sum), err
	}
	name := filepath.Join(dir, filepath.FromSlash(header.Name))
	if err := durable.MakeDir(filepath.Dir(name), 0o700); err != nil {
		return File{}, err
	}
	f, err := durable.CreateFile(name, 0o600)
	if err != nil {
		return File{}, err
	}
	defer f.Close() // again, after an error
	sparse := durable.NewSparse(f)
	out := bufio.NewWriterSize(sparse, pieceSize)
	n, err := io.Copy(io.MultiWriter(out, sum), in)
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = sparse.Flush()
	}
	return fileOf(header, n, sum), errors.Join(err, f.Close())
}

func fileOf(header *tar.Header, size int64, sum hash.Hash) File {
	return File{header.Name, size, hex.EncodeToString(sum.Sum(nil))}
}

// syncDirs makes the names in dir, and in the directories in it, durable.
func syncDirs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := durable.SyncDir(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return durable.SyncDir(dir)
}

// pack writes the backup in a directory as an archive. Errors in the backup appear when the archive
// is unpacked.
func pack(dir string, out io.Writer) error {
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotWhole, err)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotWhole, filepath.Join(dir, manifestName), err)
	}
	to := tar.NewWriter(out)
	for _, f := range append(m.Files, File{Name: manifestName, Size: int64(len(data))}) {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%w: no backup has a file %q", ErrNotWhole, f.Name)
		}
		if err := packFile(to, dir, f); err != nil {
			return err
		}
	}
	return to.Close()
}

func packFile(to *tar.Writer, dir string, f File) error {
	in, err := os.Open(filepath.Join(dir, filepath.FromSlash(f.Name)))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotWhole, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Size: info.Size(), Mode: 0o600}); err != nil {
		return err
	}
	_, err = io.Copy(to, in)
	return err
}
