package daemon

import (
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	lineDelay       = 200 * time.Millisecond // of a line, so that many share a write; short enough to watch a log live
	warningPatience = 100 * time.Millisecond // for a warning to be written
	endPatience     = 2 * time.Second        // for everything to be written at the end
)

// lineQueue is what stands between those who log and a file or pipe, which may block
// forever: nothing but a goroutine of its own waits for it. Lines are written within
// lineDelay, warnings at once. When queueBytes are used up, lines are dropped, the lowest
// rank first and of that the newest; they are counted, and report is told of them when
// something can be written again.
type lineQueue struct {
	report func(dropped [numberOfRanks]uint64) // nil: none; it must not settle

	some, prompt chan struct{} // something is queued; it is to be written at once
	closing      chan struct{} // closed by Close
	ended        chan struct{} // closed by run

	mu      sync.Mutex // guards all below; it is never held over a write
	backlog backlog
	settled []chan struct{} // closed when all is written
	stalled bool            // a warning waited in vain, and since then not all was written

	// For run alone:
	out   lineWriter
	batch []line // room for the lines of a write
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

// metrics returns the counter of lines that were dropped.
func (q *lineQueue) metrics() prometheus.Collector { return q.backlog.dropped }

// writer returns a writer each Write to which is one line of the rank. It never
// blocks, and never fails.
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

// settle waits until everything is written that is queued, for warningPatience. Once that
// was in vain no warning waits until everything is written again.
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

// run writes what is queued, until Close.
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

// drain writes until nothing is queued.
func (q *lineQueue) drain() {
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

// write writes lines, and counts those that could not be.
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

// Close writes what is queued, and gives up after endPatience. Later lines are dropped.
func (q *lineQueue) Close() {
	close(q.closing)
	select {
	case <-q.ended:
	case <-time.After(endPatience):
	}
}
