package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// openWith opens a store with one object x of content, whose readers share budget.
func openWith(t *testing.T, budget *memory.Budget, content []byte) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(t.TempDir(), &bolt.Options{Readers: budget, Writers: memory.New(bolt.WriterMemory)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Create(t.Context(), storage.Info{Key: "x", Size: int64(len(content))}, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return db
}

// stopping is a client that stops reading after some bytes, until the test lets it continue.
type stopping struct {
	after   int
	stopped func()
	resume  <-chan struct{}
	compare []byte
}

func (c *stopping) Write(p []byte) (int, error) {
	if c.after -= len(p); c.after <= 0 && c.stopped != nil {
		c.stopped()
		c.stopped = nil
		<-c.resume
	}
	if !bytes.HasPrefix(c.compare, p) {
		return 0, errors.New("other bytes than were stored")
	}
	c.compare = c.compare[len(p):]
	return len(p), nil
}

// Clients that stop reading one object at any position keep at most all of its chunks in memory,
// and not one chunk each.
func TestStoppedReaders(t *testing.T) {
	const clients = 400
	content := storagetest.Content(1, 2<<20)
	db := openWith(t, nil, content)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	resume := make(chan struct{})
	var stopped, done sync.WaitGroup
	stopped.Add(clients)
	for i := range clients {
		object, err := db.Open(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		client := &stopping{after: i * len(content) / clients, stopped: stopped.Done, resume: resume, compare: content}
		done.Go(func() {
			defer object.Close()
			if n, err := object.WriteTo(client); err != nil || n != int64(len(content)) {
				t.Errorf("client %d: %d bytes, %v", i, n, err)
			}
		})
	}
	stopped.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 { // 105 MB if each client kept a chunk
		t.Errorf("%d clients that have stopped keep %d MB", clients, grown>>20)
	}
	close(resume)
	done.Wait()
}

// When readers have used up their budget, running ones continue with less memory, and new ones are
// refused. All memory is given back.
func TestReadersBudget(t *testing.T) {
	content := storagetest.Content(2, 8<<20)
	budget := memory.New(2 << 20) // four chunks, and pieces
	db := openWith(t, budget, content)
	resume := make(chan struct{})
	var stopped, done sync.WaitGroup
	clients, full := 0, false
	for ; !full; clients++ {
		object, err := db.Open(t.Context(), "x")
		if errors.Is(err, memory.ErrFull) {
			full = true
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		at := clients % 32 * (256 << 10) // chunks that no other client reads
		stopped.Add(1)
		client := &stopping{stopped: stopped.Done, resume: resume, compare: content[at:]}
		done.Go(func() {
			defer object.Close()
			if _, err := object.Seek(int64(at), io.SeekStart); err != nil {
				t.Error(err)
			}
			if _, err := object.WriteTo(client); err != nil {
				t.Errorf("client at %d: %v", at, err)
			}
		})
		stopped.Wait()
		if budget.Used() > budget.Size() {
			t.Fatalf("%d bytes of %d are used", budget.Used(), budget.Size())
		}
	}
	if clients < 50 {
		t.Errorf("%d clients at the same time", clients)
	}
	close(resume)
	done.Wait()
	if budget.Used() != 0 {
		t.Errorf("%d bytes are lost", budget.Used())
	}
	if object, err := db.Open(t.Context(), "x"); err != nil {
		t.Errorf("afterwards: %v", err)
	} else {
		object.Close()
	}
}

// Concurrent reads, by chunks and by pieces, return the stored bytes.
func TestSharedChunks(t *testing.T) {
	t.Parallel()
	content := storagetest.Content(3, 3<<20+17)
	db := openWith(t, memory.New(900<<10), content) // room for one chunk
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for range 5 {
				object, err := db.Open(t.Context(), "x")
				if err != nil {
					t.Error(err)
					return
				}
				at := i * len(content) / 16
				_, err = object.Seek(int64(at), io.SeekStart)
				if got, rerr := io.ReadAll(object); rerr != nil || err != nil || !bytes.Equal(got, content[at:]) {
					t.Errorf("from %d: %d bytes, %v, %v", at, len(got), rerr, err)
				}
				if err := object.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// openWithWriters opens a store whose large objects have the least memory for being written.
func openWithWriters(t *testing.T) (*bolt.DB, *memory.Budget) {
	t.Helper()
	writers := memory.New(bolt.WriterMemory)
	db, err := bolt.Open(t.TempDir(), &bolt.Options{Writers: writers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, writers
}

// Concurrent creations of large objects take turns when there is memory for one; a waiting caller
// leaves when its context ends.
func TestWritersBudget(t *testing.T) {
	t.Parallel()
	db, writers := openWithWriters(t)
	content := storagetest.Content(4, 5<<20)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			info := storage.Info{Key: fmt.Sprint("y", i), Size: int64(len(content))}
			if err := db.Create(t.Context(), info, bytes.NewReader(content)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if writers.Used() != 0 {
		t.Errorf("%d bytes are lost", writers.Used())
	}
}
