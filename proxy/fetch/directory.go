package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/assay-proxy/assay/internal/descriptors"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/notfound"
)

// directory is a file:// entry: a tree of files in the layout of the protocol.
type directory struct {
	root    string // on disk
	name    string
	metrics *metrics
}

func newDirectory(u *url.URL, name string, m *metrics) *directory {
	root := u.Path
	if runtime.GOOS == "windows" {
		root = strings.TrimPrefix(root, "/") // file:///C:/modules
	}
	return &directory{filepath.FromSlash(root), name, m}
}

func (d *directory) String() string { return d.name }

// fetch opens a file. It does not use the deadline: an operation of a file system cannot be
// interrupted.
func (d *directory) fetch(ctx context.Context, path string, limit int64, _ time.Time) (*Object, error) {
	begin := time.Now()
	f, size, err := d.open(ctx, path)
	if err == nil && size > limit {
		_ = f.Close()
		err = fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, limit)
	}
	d.metrics.count(d.name, outcomeOfFile(err), begin)
	if err != nil {
		return nil, d.failed(path, err)
	}
	body := &fileBody{file: f, left: size, done: ctx.Err, failed: func(err error) error {
		return d.failed(path, err)
	}, received: func(n int) { d.metrics.bytes.WithLabelValues(d.name).Add(float64(n)) }}
	return &Object{Body: body, Size: size, Source: d.name}, nil
}

func (d *directory) readAll(ctx context.Context, path string, limit int64, deadline time.Time) ([]byte, error) {
	object, err := d.fetch(ctx, path, limit, deadline)
	if err != nil {
		return nil, err
	}
	defer object.Body.Close()
	data, err := memory.HoldOf(ctx).Read(ctx, object.Body, object.Size, limit)
	if errors.Is(err, memory.ErrFull) {
		err = d.failed(path, err)
	}
	return data, err
}

// open opens the regular file at path. It opens the root again each time, so that a directory that
// was replaced as a whole is seen. A missing root is a failure, not absence.
func (d *directory) open(ctx context.Context, path string) (*os.File, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	root, err := os.OpenRoot(d.root)
	if err != nil {
		return nil, 0, unavailable(err)
	}
	defer root.Close()
	name := filepath.FromSlash(path)
	info, err := root.Stat(name) // before Open, which blocks on a named pipe
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: it is not a file", notfound.Stated)
	}
	if err != nil {
		return nil, 0, absentOr(err)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, 0, absentOr(err)
	}
	if info, err = f.Stat(); err != nil {
		_ = f.Close()
		return nil, 0, unavailable(err)
	}
	return f, info.Size(), nil
}

// absentOr returns err if it means that the file does not exist, otherwise the error that the
// directory fails.
func absentOr(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) {
		return notfound.Stated
	}
	return unavailable(err)
}

// unavailable returns an error that is ErrUnavailable and nothing else: err says nothing about the
// object. It wraps err only if this process lacks file descriptors.
func unavailable(err error) error {
	if descriptors.Exhausted(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, syscall.EMFILE)
	}
	return fmt.Errorf("%w: %s", ErrUnavailable, printable(err.Error()))
}

func (d *directory) failed(path string, err error) *Error {
	return &Error{Source: d.name, Path: path, Err: err}
}

func outcomeOfFile(err error) string {
	switch {
	case err == nil:
		return outcomeOK
	case notfound.Is(err):
		return outcomeNotFound
	case errors.Is(err, ErrTooLarge):
		return outcomeTooLarge
	case errors.Is(err, ErrUnavailable):
		return outcomeUnavailable
	}
	return outcomeCanceled
}

// fileBody reads the bytes that a file had when it was opened.
type fileBody struct {
	file     *os.File
	left     int64
	done     func() error // why the caller does not wait any longer
	failed   func(error) error
	received func(n int)
}

func (b *fileBody) Read(p []byte) (int, error) {
	if err := b.done(); err != nil {
		return 0, b.failed(err)
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.file.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.received(n)
	switch {
	case err == io.EOF && b.left > 0:
		return n, b.failed(fmt.Errorf("%w: %w: %d bytes are missing", ErrUnavailable, io.ErrUnexpectedEOF, b.left))
	case err != nil && err != io.EOF:
		return n, b.failed(unavailable(err))
	}
	return n, nil
}

func (b *fileBody) Close() error { return b.file.Close() }

// unreachable reports whether the root of the tree cannot be opened.
func (d *directory) unreachable(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	root, err := os.OpenRoot(d.root)
	if err != nil {
		return !isOurs(err)
	}
	_ = root.Close() // nothing was written
	return false
}
