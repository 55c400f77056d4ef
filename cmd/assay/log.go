package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// logWriter buffers log lines, because a system call for each access line would
// cost as much as the rest of a hit. What is buffered is written within a
// fraction of a second, at once from a warning on, and at Close.
type logWriter struct {
	out io.Writer

	mu     sync.Mutex // guards all below
	buffer *bufio.Writer
	timer  *time.Timer // set while something is buffered
	closed bool
}

const (
	logBuffer = 64 << 10               // some hundred lines
	logDelay  = 200 * time.Millisecond // short enough to watch a log live
)

func newLogWriter(w io.Writer) *logWriter {
	return &logWriter{out: w, buffer: bufio.NewWriterSize(w, logBuffer)}
}

// Write buffers a line. It never fails: a log that cannot be written must not
// stop what it is about.
func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buffer.Available() < len(line) {
		w.flush()
	}
	_, _ = w.buffer.Write(line) // flush has dealt with its errors
	if w.closed {
		w.flush()
	} else if w.timer == nil {
		w.timer = time.AfterFunc(logDelay, w.Flush)
	}
	return len(line), nil
}

// Flush writes what is buffered.
func (w *logWriter) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
}

// flush needs mu. A bufio.Writer remembers an error for ever, a full disk is no
// reason for that.
func (w *logWriter) flush() {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if w.buffer.Flush() != nil {
		w.buffer.Reset(w.out)
	}
}

// Close writes what is buffered; later lines are written at once.
func (w *logWriter) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.flush()
}

// promptHandler writes warnings and errors at once.
type promptHandler struct {
	slog.Handler
	out *logWriter
}

func (h promptHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		h.out.Flush()
	}
	return err
}

func (h promptHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return promptHandler{h.Handler.WithAttrs(attrs), h.out}
}

func (h promptHandler) WithGroup(name string) slog.Handler {
	return promptHandler{h.Handler.WithGroup(name), h.out}
}
