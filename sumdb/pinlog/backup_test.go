package pinlog_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// copyLog copies a log like a backup.
func copyLog(t *testing.T, from, to string) {
	t.Helper()
	names, err := pinlog.BackupFiles(from)
	if err != nil {
		t.Fatal(err)
	}
	if names[len(names)-1] != "entries" {
		t.Fatalf("the entries are not the last of %v", names)
	}
	for _, name := range append([]string{pinlog.BackupMark}, names...) {
		data := []byte("a backup\n")
		if name != pinlog.BackupMark {
			data = readFile(t, filepath.Join(from, name))
		}
		if err := errors.Join(os.MkdirAll(to, 0o700), os.WriteFile(filepath.Join(to, name), data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// A copy that is made while the log appends refuses until it is adopted, and contains the entries
// of every head.
func TestBackupFiles(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 3)
	begun := make(chan bool, 1)
	stop, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		with(t, c, func(l *pinlog.Log) {
			for n := l.Size(); ; n++ {
				select {
				case <-stop:
					return
				case begun <- true:
				default:
				}
				pinOne(t, l, entry(n))
			}
		})
	}()
	for range 5 {
		<-begun
		copied := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log")}
		copyLog(t, c.Dir, copied.Dir)
		heads := headsOnDisk(t, copied.Dir)
		var size int64
		with(t, copied, func(l *pinlog.Log) {
			if size = l.Size(); size < int64(len(heads))-1 { // the first head is that of the empty log
				t.Errorf("%d entries, and %d heads", size, len(heads))
			}
			refuses(t, l, size, "restored says that this log is a backup that was put back")
		})
		if err := pinlog.Adopt(t.Context(), copied, nil); err != nil {
			t.Fatal(err)
		}
		with(t, copied, func(l *pinlog.Log) {
			if l.Size() < size {
				t.Errorf("%d entries, there were %d", l.Size(), size)
			}
			signs(t, l, copied.Dir, l.Size(), heads...)
		})
	}
	close(stop)
	<-stopped
}

// The mark alone makes the log refuse, and stays until the log is adopted.
func TestBackupMark(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 3)
	mark := filepath.Join(c.Dir, pinlog.BackupMark)
	if err := os.WriteFile(mark, []byte("a backup\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	with(t, c, func(l *pinlog.Log) {
		refuses(t, l, 3, "restored says")
		if !l.Adoptable() {
			t.Error("a log that is only marked is not adoptable")
		}
	})
	other := newNamedLog(t, "other.example", 4)
	if err := pinlog.Adopt(t.Context(), c, appendMore(t, other, 4)); !errors.Is(err, sumdb.ErrInvalid) {
		t.Errorf("Adopt with the head of another log = %v, want ErrInvalid", err)
	}
	with(t, c, func(l *pinlog.Log) { refuses(t, l, 3, "restored says") })
	if err := pinlog.Adopt(t.Context(), c, nil); err != nil {
		t.Fatal(err)
	}
	if names, err := pinlog.BackupFiles(c.Dir); err != nil || !slices.Contains(names, "heads") || slices.Contains(names, pinlog.BackupMark) {
		t.Errorf("the files of a backup are %v, %v", names, err)
	}
	with(t, c, func(l *pinlog.Log) { signs(t, l, c.Dir, 3) })
}

// A backup that is served read-only is not frozen: it signs nothing anyway, and to adopt it would make a
// second log. One whose files contradict each other is frozen.
func TestFrozenMetric(t *testing.T) {
	t.Parallel()
	c := newGuardedLog(t, 3)
	copied := pinlog.Config{Dir: filepath.Join(t.TempDir(), "log")}
	copyLog(t, c.Dir, copied.Dir)
	forged := forgedHead(t, c.Dir, 2)
	wantFrozen(t, copied, 1)
	copied.ReadOnly = true
	wantFrozen(t, copied, 0)
	with(t, copied, func(l *pinlog.Log) {
		if err := l.Witness(forged); !errors.Is(err, sumdb.ErrFrozen) {
			t.Errorf("Witness of a forged head: %v", err)
		}
		if got := frozenMetric(t, l); got != 1 {
			t.Errorf("after a forged head the metric is %v", got)
		}
	})
	if err := os.WriteFile(filepath.Join(copied.Dir, "frozen"), forged, 0o600); err != nil {
		t.Fatal(err)
	}
	wantFrozen(t, copied, 1)
}

func wantFrozen(t *testing.T, c pinlog.Config, want float64) {
	t.Helper()
	with(t, c, func(l *pinlog.Log) {
		if got := frozenMetric(t, l); got != want || l.Refuses() == nil {
			t.Errorf("read-only %t: the metric is %v, want %v; %v", c.ReadOnly, got, want, l.Refuses())
		}
	})
}

// frozenMetric returns the value of assay_log_frozen.
func frozenMetric(t *testing.T, l *pinlog.Log) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(l.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "assay_log_frozen" {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("there is no assay_log_frozen")
	return 0
}
