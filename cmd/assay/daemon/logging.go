package daemon

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"time"
)

// logger is a slog.Logger on a queue of lines.
type logger struct {
	*slog.Logger
	requests slog.Handler // for access log lines, which are dropped first
	format   lineFormat   // of those
	warnings slog.Handler // does not wait until its line is written
	lines    *lineQueue
}

// newLogger returns a logger for lines of at least a level, which may change, in the format text or
// json.
func newLogger(w io.Writer, format string, level slog.Leveler) *logger {
	l := &logger{format: lineFormat{json: format == "json"}}
	l.lines = newLineQueue(w, l.sayDropped)
	handler := func(r rank) slog.Handler {
		options := &slog.HandlerOptions{Level: level}
		if format == "json" {
			return slog.NewJSONHandler(l.lines.writer(r), options)
		}
		return slog.NewTextHandler(l.lines.writer(r), options)
	}
	l.requests = handler(rankRequest)
	l.warnings = handler(rankWarning)
	l.Logger = slog.New(rankedHandler{handler(rankInfo), l.warnings, l.lines})
	return l
}

// sayDropped writes to the log how many lines are missing, once its reader reads again.
func (l *logger) sayDropped(lines [numberOfRanks]uint64) {
	record := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines dropped: the log was not read in time or could not be written", 0)
	record.Add("requests", lines[rankRequest], "infos", lines[rankInfo], "warnings", lines[rankWarning])
	if l.warnings.Enabled(context.Background(), record.Level) {
		_ = l.warnings.Handle(context.Background(), record) // never fails, see lineQueue.writer
	}
}

// request logs a request that ended at that time. It uses the memory of line, and returns it.
func (l *logger) request(line []byte, end time.Time, attrs []slog.Attr) []byte {
	if text, ok := l.format.append(line, end, attrs); ok {
		l.lines.add(rankRequest, bytes.Clone(text))
		return text
	}
	// Not through the logger, which determines its caller each time.
	record := slog.NewRecord(end, slog.LevelInfo, "request", 0)
	record.AddAttrs(attrs...)
	_ = l.requests.Handle(context.Background(), record) // never fails, see lineQueue.writer
	return line
}

// Close writes the queued lines, and gives up after endPatience.
func (l *logger) Close() { l.lines.Close() }

// rankedHandler sends each record to the handler for its rank. After a warning or an error it waits
// until the line is written, if that is possible: the program may crash next.
type rankedHandler struct {
	info, warning slog.Handler
	lines         *lineQueue
}

func (h rankedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.info.Enabled(ctx, level)
}

func (h rankedHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return h.info.Handle(ctx, r)
	}
	defer h.lines.settle()
	return h.warning.Handle(ctx, r)
}

func (h rankedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return rankedHandler{h.info.WithAttrs(attrs), h.warning.WithAttrs(attrs), h.lines}
}

func (h rankedHandler) WithGroup(name string) slog.Handler {
	return rankedHandler{h.info.WithGroup(name), h.warning.WithGroup(name), h.lines}
}
