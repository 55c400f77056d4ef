package daemon

import (
	"io"

	"github.com/prometheus/client_golang/prometheus"
)

// rank is the order in which lines are dropped when there is no room for all of them.
type rank int

const (
	rankRequest   rank = iota // the line of a request
	rankInfo                  // other lines below a warning
	rankWarning               // warnings and errors
	numberOfRanks             // their names are rankNames
)

var rankNames = [numberOfRanks]string{"request", "info", "warning"}

const (
	queueBytes = 1 << 20  // waiting to be written, at most
	batchBytes = 64 << 10 // of one write, approximately
	lineCost   = 64       // memory of a line besides its bytes
)

// line is a line of the log with its place among all lines.
type line struct {
	number uint64
	rank   rank
	text   []byte
}

func (l line) cost() int { return len(l.text) + lineCost }

// backlog has the lines that wait to be written.
type backlog struct {
	lines [numberOfRanks][]line
	size  int    // of all lines
	last  uint64 // number of a line

	lost    [numberOfRanks]uint64 // number of lines dropped since the last report
	dropped *prometheus.CounterVec
}

func newDroppedLines() *prometheus.CounterVec {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_logging_dropped_lines_total",
		Help: "Log lines that were dropped because the log was not read in time or could not be written, by kind: request, info, warning (and error).",
	}, []string{"kind"})
	for _, name := range rankNames {
		dropped.WithLabelValues(name) // the counter exists with 0
	}
	return dropped
}

// add appends a line, if there is room or room can be made, and returns the size of all lines.
func (b *backlog) add(r rank, text []byte) (size int) {
	b.last++
	added := line{b.last, r, text}
	if b.makeRoom(added) {
		b.lines[r] = append(b.lines[r], added)
		b.size += added.cost()
	} else {
		b.drop(added)
	}
	return b.size
}

// makeRoom drops lines of lower ranks until there is room for one, and reports whether there is
// room.
func (b *backlog) makeRoom(one line) bool {
	for r := rankRequest; r < one.rank && b.size+one.cost() > queueBytes; {
		n := len(b.lines[r])
		if n == 0 {
			r++
			continue
		}
		newest := b.lines[r][n-1]
		b.lines[r] = b.lines[r][:n-1]
		b.size -= newest.cost()
		b.drop(newest)
	}
	return b.size+one.cost() <= queueBytes
}

// drop counts a dropped line.
func (b *backlog) drop(one line) {
	b.lost[one.rank]++
	b.dropped.WithLabelValues(rankNames[one.rank]).Inc()
}

// take appends the oldest lines to lines, together about batchBytes.
func (b *backlog) take(lines []line) []line {
	for size := 0; size < batchBytes; {
		oldest := &b.lines[rankRequest]
		for r := range b.lines {
			if of := &b.lines[r]; len(*oldest) == 0 || len(*of) > 0 && (*of)[0].number < (*oldest)[0].number {
				oldest = of
			}
		}
		if len(*oldest) == 0 {
			break
		}
		first := (*oldest)[0]
		(*oldest)[0] = line{} // releases its text
		*oldest = (*oldest)[1:]
		b.size -= first.cost()
		size += len(first.text)
		lines = append(lines, first)
	}
	return lines
}

// lineWriter writes whole lines if the underlying writer takes them.
type lineWriter struct {
	out  io.Writer
	torn bool   // the last write ended in the middle of a line
	text []byte // buffer for the text of a write
}

// write writes lines in one call. If that fails, it returns the lines that are not written whole.
func (w *lineWriter) write(lines []line) (lost []line, err error) {
	w.text = w.text[:0]
	if w.torn {
		w.text = append(w.text, '\n')
	}
	start := len(w.text)
	for _, line := range lines {
		w.text = append(w.text, line.text...)
	}
	n, err := w.out.Write(w.text)
	if err == nil {
		w.torn = false
		return nil, nil
	}
	for _, line := range lines {
		begin := start
		start += len(line.text)
		if n < start-1 { // the next write begins with a newline
			lost = append(lost, line)
		}
		if begin < n && n < start {
			w.torn = true
		}
	}
	return lost, err
}
