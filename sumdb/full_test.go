//go:build linux || darwin

package sumdb_test

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/sumdb"
)

// A full disk cuts evidence of a fork short. Such a file does not count as evidence: the mirror
// writes it again, whole, when there is room.
func TestEvidenceOnFullDisk(t *testing.T) {
	t.Parallel()
	const child = "ASSAY_SUMDB_CHILD"
	if os.Getenv(child) == "" { // the limit holds for a whole process, so the test needs another one
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestEvidenceOnFullDisk$", "-test.timeout=1m")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	log := newLog(t, 50)
	shown := log
	evidence := t.TempDir()
	m := open(t, log, newMemory(t), evidence, fetchFrom(&shown))
	refresh(t, m)
	shown = forkOf(log, 10, 60)
	limitFiles(t, 100)
	if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Refresh = %v, want ErrFrozen", err)
	}
	if err := m.Recheck(t.Context()); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("Recheck without room: %v", err)
	}
	if file, frozen := m.Frozen(); !frozen || file != "" {
		t.Errorf("Frozen = %q, %v, want true without a file", file, frozen)
	}
	if _, frozen := open(t, log, newMemory(t), evidence, nil).Frozen(); !frozen {
		t.Error("not frozen after a restart")
	}
	limitFiles(t, 1<<30)
	if err := m.Recheck(t.Context()); err != nil {
		t.Errorf("Recheck with room: %v", err)
	}
	checkEvidence(t, log, shown, readEvidence(t, evidence), 50, 60)
}

// limitFiles makes every write of this process beyond size fail.
func limitFiles(t *testing.T, size uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = size
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
}
