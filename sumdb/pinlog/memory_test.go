package pinlog_test

import (
	"errors"
	"testing"

	budget "github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// The index of a log does not exceed its memory: an entry that does not fit is refused, existing
// entries are found, and with more memory the log takes entries again.
func TestLogMemory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	room := budget.New(4 * pinlog.EntryMemory)
	l := openLog(t, pinlog.Config{Dir: dir, Memory: room})
	pinned := 0
	for ; ; pinned++ {
		_, err := l.Pin(t.Context(), entry(int64(pinned)))
		if errors.Is(err, budget.ErrFull) {
			break
		}
		if err != nil || pinned > 4 {
			t.Fatalf("entry %d: %v", pinned, err)
		}
	}
	if pinned != 4 || l.Size() != 4 {
		t.Errorf("%d are pinned, the log has %d", pinned, l.Size())
	}
	if _, err := l.Pin(t.Context(), entry(1)); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	small := budget.New(pinlog.EntryMemory)
	l = openLog(t, pinlog.Config{Dir: dir, Memory: small})
	if _, err := l.Find(t.Context(), entry(3).Module); err != nil || small.Used() != 4*pinlog.EntryMemory {
		t.Errorf("with less memory than the index takes: %v, %d bytes are counted", err, small.Used())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, pinlog.Config{Dir: dir, Memory: budget.New(1 << 20)})
	defer l.Close()
	if _, err := l.Pin(t.Context(), entry(4)); err != nil {
		t.Errorf("with more memory: %v", err)
	}
}
