package daemon

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// logger is a slog.Logger whose settings can change, on a queue.
type logger struct {
	*slog.Logger
	requests slog.Handler // for the line of each request, which is dropped first
	warnings slog.Handler // does not wait until its line is written
	level    slog.LevelVar
	access   atomic.Bool
	out      *logQueue
}

func newLogger(w io.Writer, c config.Config) *logger {
	l := &logger{}
	l.out = newLogQueue(w, l.sayDropped)
	handler := func(r rank) slog.Handler {
		options := &slog.HandlerOptions{Level: &l.level}
		if c.LogFormat == "json" {
			return slog.NewJSONHandler(l.out.writer(r), options)
		}
		return slog.NewTextHandler(l.out.writer(r), options)
	}
	l.requests = handler(rankRequest)
	l.warnings = handler(rankWarning)
	l.Logger = slog.New(rankedHandler{handler(rankInfo), l.warnings, l.out})
	l.configure(c)
	return l
}

// configure puts the settings of c into force that can change.
func (l *logger) configure(c config.Config) {
	l.level.Set(c.Level())
	l.access.Store(c.AccessLog)
}

// sayDropped tells the reader of the log, who is back, what is missing.
func (l *logger) sayDropped(lines [numberOfRanks]uint64) {
	record := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines dropped: the log was not read in time or could not be written", 0)
	record.Add("requests", lines[rankRequest], "infos", lines[rankInfo], "warnings", lines[rankWarning])
	if l.warnings.Enabled(context.Background(), record.Level) {
		_ = l.warnings.Handle(context.Background(), record) // never fails, see logQueue.writer
	}
}

// Close writes what is queued, and gives up after logEnd.
func (l *logger) Close() { l.out.Close() }

// rankedHandler sends each record to the handler for its rank, and lets a warning or
// an error be written before it returns, if that is possible: the program may crash next.
type rankedHandler struct {
	info, warning slog.Handler
	out           *logQueue
}

func (h rankedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.info.Enabled(ctx, level)
}

func (h rankedHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return h.info.Handle(ctx, r)
	}
	defer h.out.settle()
	return h.warning.Handle(ctx, r)
}

func (h rankedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return rankedHandler{h.info.WithAttrs(attrs), h.warning.WithAttrs(attrs), h.out}
}

func (h rankedHandler) WithGroup(name string) slog.Handler {
	return rankedHandler{h.info.WithGroup(name), h.warning.WithGroup(name), h.out}
}

// rank says which line is dropped first when there is no room for all.
type rank int

const (
	rankRequest   rank = iota // the line of a request
	rankInfo                  // other lines below a warning
	rankWarning               // warnings and errors
	numberOfRanks             // of which the names are rankNames
)

var rankNames = [numberOfRanks]string{"request", "info", "warning"}

const (
	logRoom     = 1 << 20                // bytes that wait to be written, at most
	logBatch    = 64 << 10               // bytes of one write, about
	logDelay    = 200 * time.Millisecond // of a line, so that many share a write; short enough to watch a log live
	logPatience = 100 * time.Millisecond // for a warning to be written
	logEnd      = 2 * time.Second        // for everything to be written at the end
	lineCost    = 64                     // memory of a line besides its bytes
)

// logQueue is what stands between those who log and a file or pipe, which may block
// for ever: nothing but a goroutine of its own waits for it. Lines are written within
// logDelay, warnings at once. When logRoom is used up, lines are dropped, the lowest
// rank first and of that the newest; they are counted, and report is told of them when
// something can be written again.
type logQueue struct {
	out     io.Writer
	report  func(dropped [numberOfRanks]uint64) // nil: none; it must not settle
	dropped *prometheus.CounterVec

	some, prompt chan struct{} // something is queued; it is to be written at once
	closing      chan struct{} // closed by Close
	ended        chan struct{} // closed by run

	mu      sync.Mutex // guards all below; it is never held over a write
	lines   [numberOfRanks][]logLine
	size    int                   // of all lines
	last    uint64                // number of a line
	lost    [numberOfRanks]uint64 // dropped since the last report
	settled []chan struct{}       // closed when all is written
	stalled bool                  // a warning waited in vain, and since then not all was written

	// For run alone:
	torn  bool      // the last write ended within a line
	batch []logLine // room for the lines of a write
	text  []byte    // room for their text
}

// logLine is a line with its place among all lines.
type logLine struct {
	number uint64
	rank   rank
	text   []byte
}

func (l logLine) cost() int { return len(l.text) + lineCost }

func newLogQueue(out io.Writer, report func([numberOfRanks]uint64)) *logQueue {
	q := &logQueue{
		out: out, report: report,
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_logging_dropped_lines_total",
			Help: "Log lines that were dropped because the log was not read in time or could not be written, by kind: request, info, warning (and error).",
		}, []string{"kind"}),
		some: make(chan struct{}, 1), prompt: make(chan struct{}, 1),
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	for _, name := range rankNames {
		q.dropped.WithLabelValues(name) // 0, not nothing
	}
	go q.run()
	return q
}

// writer returns a writer each Write to which is one line of the rank. It never
// blocks, and never fails.
func (q *logQueue) writer(r rank) io.Writer { return &rankedWriter{q, r} }

type rankedWriter struct {
	queue *logQueue
	rank  rank
}

func (w *rankedWriter) Write(text []byte) (int, error) {
	w.queue.add(w.rank, append([]byte(nil), text...))
	return len(text), nil
}

// add queues a line.
func (q *logQueue) add(r rank, text []byte) {
	q.mu.Lock()
	q.last++
	line := logLine{q.last, r, text}
	if q.makeRoom(line) {
		q.lines[r] = append(q.lines[r], line)
		q.size += line.cost()
	} else {
		q.lose(line)
	}
	full := q.size >= logBatch
	q.mu.Unlock()
	signalTo(q.some)
	if full || r == rankWarning {
		signalTo(q.prompt)
	}
}

// makeRoom drops lines of lower ranks until there is room for the line, and reports
// whether there is. It needs mu.
func (q *logQueue) makeRoom(line logLine) bool {
	for r := rankRequest; r < line.rank && q.size+line.cost() > logRoom; {
		n := len(q.lines[r])
		if n == 0 {
			r++
			continue
		}
		newest := q.lines[r][n-1]
		q.lines[r] = q.lines[r][:n-1]
		q.size -= newest.cost()
		q.lose(newest)
	}
	return q.size+line.cost() <= logRoom
}

// lose counts a line that is dropped. It needs mu.
func (q *logQueue) lose(line logLine) {
	q.lost[line.rank]++
	q.dropped.WithLabelValues(rankNames[line.rank]).Inc()
}

// signalTo signals on a channel with room for one signal.
func signalTo(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// settle waits until everything is written that is queued, for logPatience. Once that
// was in vain no warning waits until everything is written again.
func (q *logQueue) settle() {
	q.mu.Lock()
	if q.stalled {
		q.mu.Unlock()
		return
	}
	settled := make(chan struct{})
	q.settled = append(q.settled, settled)
	q.mu.Unlock()
	signalTo(q.some)
	signalTo(q.prompt)
	patience := time.NewTimer(logPatience)
	defer patience.Stop()
	select {
	case <-settled:
	case <-q.ended:
	case <-patience.C:
		q.mu.Lock()
		q.stalled = len(q.settled) > 0
		q.mu.Unlock()
	}
}

// run writes what is queued, until Close.
func (q *logQueue) run() {
	defer close(q.ended)
	for {
		select {
		case <-q.some:
		case <-q.closing:
			q.drain()
			return
		}
		select {
		case <-q.prompt:
		case <-q.closing:
		case <-time.After(logDelay):
		}
		q.drain()
	}
}

// drain writes until nothing is queued.
func (q *logQueue) drain() {
	for {
		q.batch = q.take(q.batch[:0])
		if len(q.batch) == 0 {
			return
		}
		q.write(q.batch)
		clear(q.batch) // their texts are garbage now
	}
}

// take appends the oldest lines to lines, together about as long as one write is to be. If
// there are none, everything is written.
func (q *logQueue) take(lines []logLine) []logLine {
	q.mu.Lock()
	defer q.mu.Unlock()
	for size := 0; size < logBatch; {
		oldest := &q.lines[rankRequest]
		for r := range q.lines {
			if of := &q.lines[r]; len(*oldest) == 0 || len(*of) > 0 && (*of)[0].number < (*oldest)[0].number {
				oldest = of
			}
		}
		if len(*oldest) == 0 {
			break
		}
		line := (*oldest)[0]
		(*oldest)[0] = logLine{} // its text is garbage soon
		*oldest = (*oldest)[1:]
		q.size -= line.cost()
		size += len(line.text)
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		for _, settled := range q.settled {
			close(settled)
		}
		q.settled, q.stalled = nil, false
	}
	return lines
}

// write writes lines, and counts those that could not be.
func (q *logQueue) write(lines []logLine) {
	q.text = q.text[:0]
	if q.torn {
		q.text = append(q.text, '\n')
	}
	start := len(q.text)
	for _, line := range lines {
		q.text = append(q.text, line.text...)
	}
	n, err := q.out.Write(q.text)
	if err == nil {
		q.torn = false
		q.sayLost()
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, line := range lines {
		begin := start
		start += len(line.text)
		if n < start-1 { // the next write begins with a newline
			q.lose(line)
		}
		if begin < n && n < start {
			q.torn = true
		}
	}
}

// sayLost reports what was dropped.
func (q *logQueue) sayLost() {
	q.mu.Lock()
	lost := q.lost
	q.lost = [numberOfRanks]uint64{}
	q.mu.Unlock()
	if q.report != nil && lost != [numberOfRanks]uint64{} {
		q.report(lost)
	}
}

// Close writes what is queued, and gives up after logEnd. Later lines are dropped.
func (q *logQueue) Close() {
	close(q.closing)
	select {
	case <-q.ended:
	case <-time.After(logEnd):
	}
}
