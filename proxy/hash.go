package proxy

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/defect"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/storage"
)

// hashZip returns the h1 hash of a module zip, as x/mod/sumdb/dirhash.HashZip
// does, with the work spread over the processors: unpacking is what a large fill
// spends its time with. A test compares the two.
func hashZip(ctx context.Context, file *os.File) (string, error) {
	stat, err := file.Stat()
	if err != nil {
		return "", err
	}
	directory := &directoryReader{file: file, left: directoryLimit}
	archive, err := zip.NewReader(directory, stat.Size())
	if err != nil {
		return "", err
	}
	directory.read = true
	if err := checkUnpacked(archive.File); err != nil {
		return "", err
	}
	sums := make([]string, len(archive.File))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, entry := range archive.File {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return defect.Catch(func() (err error) {
				sums[i], err = hashEntry(entry)
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	return hashLines(archive.File, sums), nil
}

// checkShape returns an error if the zip has bytes that its h1 hash does not cover.
func checkShape(file *os.File) error {
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	return modzip.CheckShape(file, stat.Size())
}

// directoryLimit bounds the directory of a zip, of which each byte takes up to fifteen
// in memory. The largest modules there are have a quarter of it.
const directoryLimit = 64 << 20

// directoryReader reads a zip, of which only so much is read before the directory has
// been.
type directoryReader struct {
	file *os.File
	left int
	read bool
}

func (r *directoryReader) ReadAt(p []byte, at int64) (int, error) {
	if !r.read {
		if r.left -= len(p); r.left < 0 {
			return 0, fmt.Errorf("%w: the directory of a zip, the limit is %d bytes", fetch.ErrTooLarge, directoryLimit)
		}
	}
	return r.file.ReadAt(p, at)
}

// checkUnpacked refuses what would take for ever to hash, and names that h1 does
// not cover. The declared sizes hold: archive/zip gives no byte more.
func checkUnpacked(files []*zip.File) error {
	var total uint64
	for _, f := range files {
		if strings.Contains(f.Name, "\n") {
			return errors.New("a file name in it has a newline")
		}
		if total += f.UncompressedSize64; f.UncompressedSize64 > zipLimit || total > zipLimit {
			return fmt.Errorf("it unpacks to more than %d bytes", zipLimit)
		}
	}
	return nil
}

// hashEntry returns the SHA-256 of an entry's content.
func hashEntry(entry *zip.File) (string, error) {
	content, err := entry.Open()
	if err != nil {
		return "", err
	}
	defer content.Close()
	h := sha256.New()
	if _, err := io.Copy(h, content); err != nil {
		return "", err
	}
	return string(h.Sum(nil)), nil
}

// hashLines is dirhash.Hash1 over sums already known.
func hashLines(files []*zip.File, sums []string) string {
	order := make([]int, len(files))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(files[a].Name, files[b].Name) })
	h := sha256.New()
	for _, i := range order {
		fmt.Fprintf(h, "%x  %s\n", sums[i], files[i].Name)
	}
	return "h1:" + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// CheckStored returns an error if a stored object is a zip with bytes that no hash
// covers, which earlier versions kept. Any other object is not looked at. The error
// is modzip.ErrShape, or of reading the object.
func CheckStored(object storage.Object) error {
	info := object.Info()
	if req, err := ParsePath(info.Key); err != nil || req.Kind != Zip {
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
