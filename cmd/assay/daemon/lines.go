package daemon

import (
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	lineDelay       = 200 * time.Millisecond // before a line is written, so that many share a write; short enough to watch a log live
	warningPatience = 100 * time.Millisecond // for the write of a warning
	endPatience     = 2 * time.Second        // for writing all queued lines at the end
)

// lineQueue decouples loggers from a file or pipe that may block forever: only the queue's own
// goroutine waits for it. Lines are written within lineDelay, warnings at once. When queueBytes are
// used up, lines are dropped, the lowest rank first and the newest of that rank; they are counted,
// and report gets their number when something can be written again.
type lineQueue struct {
	report func(dropped [numberOfRanks]uint64) // nil: none; it must not call settle

	some, prompt chan struct{} // a line is queued; it is to be written at once
	closing      chan struct{} // closed by Close
	ended        chan struct{} // closed by run

	mu      sync.Mutex // guards all fields below; never held during a write
	backlog backlog
	settled []chan struct{} // closed when all lines are written
	stalled bool            // the wait for a warning timed out, and since then lines were always waiting

	// Only run uses these:
	out   lineWriter
	batch []line // buffer for the lines of a write
}

func newLineQueue(out io.Writer, report func([numberOfRanks]uint64)) *lineQueue {
	q := &lineQueue{
		report: report, backlog: backlog{dropped: newDroppedLines()}, out: lineWriter{out: out},
		some: make(chan struct{}, 1), prompt: make(chan struct{}, 1),
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	go q.run()
	return q
}

// metrics returns the counter of dropped lines.
func (q *lineQueue) metrics() prometheus.Collector { return q.backlog.dropped }

// writer returns a writer for lines of the rank. Each Write is one line. It never blocks, and never
// fails.
func (q *lineQueue) writer(r rank) io.Writer { return &rankedWriter{q, r} }

type rankedWriter struct {
	queue *lineQueue
	rank  rank
}

func (w *rankedWriter) Write(text []byte) (int, error) {
	w.queue.add(w.rank, append([]byte(nil), text...))
	return len(text), nil
}

// add queues a line.
func (q *lineQueue) add(r rank, text []byte) {
	q.mu.Lock()
	full := q.backlog.add(r, text) >= batchBytes
	q.mu.Unlock()
	signalTo(q.some)
	if full || r == rankWarning {
		signalTo(q.prompt)
	}
}

// signalTo signals on a channel with room for one signal.
func signalTo(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// settle waits until all queued lines are written, for at most warningPatience. After a timeout no
// warning waits until all lines were written once.
func (q *lineQueue) settle() {
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
	patience := time.NewTimer(warningPatience)
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

// run writes queued lines, until Close.
func (q *lineQueue) run() {
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
		case <-time.After(lineDelay):
		}
		q.drain()
	}
}

// drain writes until the queue is empty.
func (q *lineQueue) drain() {
	for {
		q.batch = q.take(q.batch[:0])
		if len(q.batch) == 0 {
			return
		}
		q.write(q.batch)
		clear(q.batch) // releases their texts
	}
}

// take appends the oldest lines to lines, together about batchBytes. If there are none, it wakes
// all waiters: everything is written.
func (q *lineQueue) take(lines []line) []line {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines = q.backlog.take(lines)
	if len(lines) == 0 {
		for _, settled := range q.settled {
			close(settled)
		}
		q.settled, q.stalled = nil, false
	}
	return lines
}

// write writes lines, and counts those that could not be written.
func (q *lineQueue) write(lines []line) {
	lost, err := q.out.write(lines)
	q.mu.Lock()
	for _, line := range lost {
		q.backlog.drop(line)
	}
	var dropped [numberOfRanks]uint64
	if err == nil {
		dropped, q.backlog.lost = q.backlog.lost, dropped
	}
	q.mu.Unlock()
	if q.report != nil && dropped != [numberOfRanks]uint64{} {
		q.report(dropped)
	}
}

// Close writes the queued lines, and gives up after endPatience. Later lines are dropped.
func (q *lineQueue) Close() {
	close(q.closing)
	select {
	case <-q.ended:
	case <-time.After(endPatience):
	}
}
