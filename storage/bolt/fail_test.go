package bolt_test

import (
	"bytes"
	"errors"
	"maps"
	"sync/atomic"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
)

// writeFailure makes the writes to meta.db fail from one on.
type writeFailure struct {
	err    error
	left   int // writes until the first one that fails
	failed int
}

func (f *writeFailure) write(b []byte, _ int64, write func(b []byte) error) error {
	if f.err == nil || f.left > 0 {
		f.left--
		return write(b)
	}
	if f.failed++; f.failed == 1 { // a part of it may be written
		if err := write(b[:len(b)/2/512*512]); err != nil {
			return err
		}
	}
	return f.err
}

// A write that fails, at any place of any commit and in particular of the slices of merges, fails its
// operation and nothing else: all other objects stay, and after a kill, too. When there is room again,
// the operation can be done; after an error of the disk the store accepts nothing more until a restart.
func TestWriteFailures(t *testing.T) {
	t.Parallel()
	var failures atomic.Int64
	most := histories(t, func(t *testing.T, h *history) {
		if h.stepFailing(t) {
			failures.Add(1)
		}
	})
	if n := int(failures.Load()); n < most/16 {
		t.Errorf("%d of %d operations failed, which proves little", n, most)
	}
}

// stepFailing does a random operation, in which writes may fail, and checks what the store has then.
func (h *history) stepFailing(t *testing.T) (failed bool) {
	before := maps.Clone(h.want)
	failure := &writeFailure{left: h.IntN(20)}
	h.db.OnWrite(failure.write)
	end := func() {}
	switch h.IntN(8) {
	case 0, 1, 2:
		failure.err = syscall.ENOSPC
	case 3:
		failure.err = syscall.EIO
	case 4:
		var err error
		if end, err = h.db.FailFrames(); err != nil {
			t.Fatal(err)
		}
	}
	err := h.operate(t)
	end()
	ioError := failure.failed > 0 && failure.err == syscall.EIO
	failure.err = nil
	if err != nil && failure.failed == 0 && !errors.Is(err, syscall.EBADF) {
		t.Fatal(err)
	}

	check := func(what string, has map[string][]byte) {
		undone := !maps.EqualFunc(has, h.want, bytes.Equal)
		if undone && (err == nil || !maps.EqualFunc(has, before, bytes.Equal)) {
			t.Fatalf("%s after %v: the store has %d objects, want %d, or before the operation %d", what, err, len(has), len(h.want), len(before))
		}
	}
	has := contents(t, h.db)
	check("running", has)
	if h.failed = h.failed || failure.failed > 0; !h.failed {
		expectAll(t, h.db, has)
	}
	left := h.leave(t, h.read(t))
	found := openReadOnly(t, left)
	hasThen := contents(t, found)
	check("killed", hasThen)
	expectAll(t, found, hasThen)
	found.Close()
	h.want = has
	if ioError || h.IntN(8) == 0 {
		if ioError && h.creates(t) == nil {
			t.Fatal("something was stored after an error of the disk")
		}
		h.db.Close()
		h.want, h.failed = hasThen, false
		h.open(t, left)
	}
	return err != nil
}

// On a full disk what is not in the journal can be deleted, also after a commit failed, although there is
// no room for the objects of the journal in the tree.
func TestDeleteOnFullDisk(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	put(t, db, "a", []byte("a"))
	if err := db.Settle(); err != nil {
		t.Fatal(err)
	}
	kept := journalObjects(0, 400)
	putAll(t, db, kept)
	var size int64
	if err := db.ViewMeta(func(tx *bbolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		t.Fatal(err)
	}
	db.OnWrite(func(b []byte, offset int64, write func(b []byte) error) error {
		if offset+int64(len(b)) > size {
			return syscall.ENOSPC
		}
		return write(b)
	})
	if err := db.SetState(t.Context(), "state", make([]byte, 4<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := db.Settle(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("there is room for the objects of the journal: %v", err)
	}
	if err := db.Delete(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	expectAll(t, db, kept)
}
