package daemon

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// Several goroutines log concurrently, while writes sometimes fail: each line is written whole and
// once, or counted.
func TestLineQueueCounts(t *testing.T) {
	t.Parallel()
	out := &flakyWriter{}
	reported := make(chan [numberOfRanks]uint64, 1000)
	q := newLineQueue(out, func(lost [numberOfRanks]uint64) { reported <- lost })
	const writers, lines = 8, 2000
	done := make(chan struct{})
	for i := range writers {
		go func() {
			w := q.writer(rank(i % int(numberOfRanks)))
			for j := range lines {
				fmt.Fprintf(w, "%d-%d %s.\n", i, j, strings.Repeat("x", j%500))
			}
			done <- struct{}{}
		}()
	}
	for range writers {
		<-done
	}
	q.Close()
	<-q.ended
	seen := map[string]bool{}
	for line := range strings.Lines(out.b.String()) {
		if name, _, whole := strings.Cut(line, " "); whole && strings.HasSuffix(line, ".\n") {
			if seen[name] {
				t.Errorf("line %s is there twice", name)
			}
			seen[name] = true
		}
	}
	lost := uint64(0)
	for _, n := range q.backlog.lost { // run has ended
		lost += n
	}
	for len(reported) > 0 {
		for _, n := range <-reported {
			lost += n
		}
	}
	if got := uint64(len(seen)) + lost; got != writers*lines {
		t.Errorf("%d lines are written and %d counted as lost, of %d", len(seen), lost, writers*lines)
	}
	if lost == 0 || len(seen) == 0 {
		t.Errorf("%d lines are written, %d lost: the test shows nothing", len(seen), lost)
	}
}

// flakyWriter writes only a part every third time.
type flakyWriter struct {
	b bytes.Buffer
	n int
}

func (w *flakyWriter) Write(text []byte) (int, error) {
	if w.n++; w.n%3 == 0 {
		w.b.Write(text[:len(text)/2])
		return len(text) / 2, syscall.ENOSPC
	}
	return w.b.Write(text)
}
