package pinlog_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

const otherName = "other.corp.example"

// other is the configuration of a replica of another log in the same bucket, with a key of its own.
func (f *fleet) other(name string) pinlog.Config {
	c := f.trusting(name)
	c.Name, c.Bucket.Key = otherName, filepath.Join(f.dir, "other-key")
	return c
}

func createRefused(t *testing.T, c pinlog.Config, want string) {
	t.Helper()
	if _, err := pinlog.Create(t.Context(), c); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), want) {
		t.Errorf("Create: %v, want a refusal with %q", err, want)
	}
}

// Of two logs in a bucket one signs: the first one, until the administrator says that it has ended.
func TestSecondLog(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	first := f.begin("first")
	createRefused(t, f.other("second"), "the bucket has another log, "+logName) // also without entries
	if _, err := os.Stat(filepath.Join(f.dir, "other-key")); err == nil {
		t.Error("a key was made")
	}
	f.fill(first, 3)
	createRefused(t, f.other("second"), "--other-log-ended")

	c := f.other("second")
	c.Bucket.OthersEnded = true
	if _, err := pinlog.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	pinOne(t, openLog(t, f.other("second")), entry(1))
	f.refuses(openLog(t, f.trusting("first-again")), "the bucket has another log, "+otherName)
}

// A bucket in which nothing says which of its logs signs has one that does: none with another one beside it.
func TestSecondLogFound(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]storage.Info{
		"log":    {Key: storage.LogDir(otherName) + "/batches/000000000000"},
		"pinned": {Key: storage.PinnedIn(otherName).Key("corp.example/lib/@v/v1.0.0.mod")},
	} {
		f := newFleet(t)
		f.create()
		if err := f.store().DeleteState(t.Context(), "log/current"); err != nil {
			t.Fatal(err)
		}
		leave.Size = 1
		if err := f.store().Create(t.Context(), leave, bytes.NewReader([]byte("x"))); err != nil {
			t.Fatal(err)
		}
		replica := f.trusting(name)
		l := openLog(t, replica)
		f.refuses(l, "the bucket has another log, "+otherName)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		c := f.config("admin")
		c.Bucket.OthersEnded = true
		if _, err := pinlog.Create(t.Context(), c); err != nil {
			t.Fatalf("%s: the administrator says that the other one has ended: %v", name, err)
		}
		pinOne(t, openLog(t, replica), entry(1))
	}
}

// A log is not brought beside another one. After it was brought back, the bucket is no place for a second one, until
// the administrator says so.
func TestSecondLogMoved(t *testing.T) {
	t.Parallel()
	m := newMoving(t, 3)
	other := m.other("admin")
	if _, err := pinlog.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if _, err := pinlog.Move(t.Context(), m.both()); !errors.Is(err, sumdb.ErrFrozen) || !strings.Contains(err.Error(), otherName) {
		t.Errorf("Move: %v, want a refusal", err)
	}
	l := m.openFiles() // it is no log that was moved
	m.fill(l, 4)
	m.close(l)
	both := m.both()
	both.Bucket.OthersEnded = true
	if size, err := pinlog.Move(t.Context(), both); err != nil || size != 4 {
		t.Fatalf("Move = %d, %v", size, err)
	}
	m.moveBack(4)
	createRefused(t, m.other("again"), "the bucket has another log, "+logName)
}

// A key that may have been that of a log begins none without a word.
func TestCreateWithOldKey(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	c := f.config("admin")
	c.Bucket.KeyUnused = false
	createRefused(t, c, "--key-never-used")
	f.create()
}
