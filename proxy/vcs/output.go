package vcs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/assay-proxy/assay/internal/memory"
)

// limited is a buffer that drops output over its limit.
type limited struct {
	bytes.Buffer
	limit int
	over  context.CancelCauseFunc // gets errOutput or memory.ErrFull; nil: the rest is dropped silently
	held  *memory.Hold            // with over
}

func (l *limited) Write(p []byte) (int, error) {
	room := max(0, l.limit-l.Len())
	if need := l.Len() + min(room, len(p)); l.over != nil && need > smallOutput {
		if err := l.held.Try(outputCopies * int64(need)); err != nil {
			l.over(err)
			return len(p), nil
		}
	}
	l.Buffer.Write(p[:min(room, len(p))])
	if len(p) > room && l.over != nil {
		l.over(errOutput)
	}
	return len(p), nil
}

// decodeOne decodes the one JSON value that out must be.
func decodeOne(out []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(out))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: output of the go command: %w", ErrTools, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: output of the go command: more than one value", ErrTools)
	}
	return nil
}

// errOutput says that a command printed more than any answer has.
var errOutput = errors.New("too much output")

const (
	maxOutput = 4 << 20 // of a command: a list of 100,000 versions
	maxStderr = 64 << 10

	// More output than smallOutput counts against Config.Memory, outputCopies times: its
	// buffer, which is copied when it grows, and its decoded form.
	smallOutput  = 64 << 10
	outputCopies = 4
)

// readFile reads a file of at most limit bytes that the go command created, into the
// memory.Hold of ctx.
func readFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("output of the go command: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, filepath.Base(name), info.Size())
	}
	return memory.HoldOf(ctx).Read(ctx, f, info.Size(), limit)
}

// Limits of files that are read whole, the go command's own.
const (
	maxMod  = 16 << 20
	maxInfo = 1 << 20
)
