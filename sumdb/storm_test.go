package sumdb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// storm is a database and a disk that fail now and then, and two processes with the same store.
type storm struct {
	log     *sumdbtest.Log
	store   *realStore
	mirrors [2]*sumdb.Mirror
	calm    atomic.Bool
	growing sync.Mutex // Log.Fill is for one goroutine
}

// fetch answers like the log, or not at all, or with a wrong width, or wrong bytes, or after the caller
// has left.
func (s *storm) fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	data, err := s.log.Fetch(ctx, path, limit)
	if s.calm.Load() || err != nil || len(data) == 0 {
		return data, err
	}
	data = append([]byte(nil), data...)
	switch rand.IntN(25) {
	case 0:
		return nil, errors.New("reset by peer")
	case 1:
		return nil, fs.ErrNotExist
	case 2:
		return data[:len(data)-1], nil
	case 3:
		data[rand.IntN(len(data))]++
	case 4:
		return append(data, data...)[:min(int64(2*len(data)), limit)], nil
	}
	return data, err
}

// fail makes the disk fail for some steps.
func (s *storm) fail(string, string) error {
	if !s.calm.Load() && rand.IntN(30) == 0 {
		return errors.New("no space left on device")
	}
	return nil
}

// client does what one client does: it proves records, and stores them, or leaves.
func (s *storm) client(ctx context.Context) {
	for range 12 {
		m := s.mirrors[rand.IntN(2)]
		size := s.log.Size()
		id := rand.Int64N(size)
		ctx, leave := context.WithCancel(ctx)
		if rand.IntN(6) == 0 {
			go leave()
		}
		switch rand.IntN(8) {
		case 0:
			_ = m.Refresh(ctx)
		case 1:
			s.log.ShowLookup([]int64{-1, rand.Int64N(size) + 1, size}[rand.IntN(3)])
		case 2:
			s.growing.Lock()
			s.log.Fill([]int64{size + 1, (size>>8 + 1) << 8, (size>>8+1)<<8 + 1, size + rand.Int64N(600)}[rand.IntN(4)])
			s.growing.Unlock()
		case 3:
			m.Anew()
		case 4:
			_, _ = m.Lookup(ctx, sumdbtest.Filler(id))
		default:
			if p, err := m.Prove(ctx, sumdbtest.Filler(id)); err == nil && rand.IntN(8) > 0 {
				_ = p.Store(ctx, nil, gomod(id))
			}
		}
		leave()
	}
}

// Whatever fails while many clients look up records, the store has nothing that is not proved: each
// object that depends on a record has it, and each record has its tiles and a head that covers it.
func TestStorm(t *testing.T) {
	t.Parallel()
	for round := range 4 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			s := &storm{log: newLog(t, []int64{1, 255, 257, 65_530}[round]), store: newStore(t)}
			evidence := t.TempDir()
			for range 3 {
				for n := range s.mirrors {
					s.mirrors[n] = open(t, s.log, s.store, evidence, s.fetch)
				}
				s.calm.Store(false)
				s.store.failWith(s.fail)
				var clients sync.WaitGroup
				for range 24 {
					clients.Go(func() { s.client(t.Context()) })
				}
				clients.Wait()
				s.calm.Store(true)
				for _, m := range s.mirrors {
					m.Close()
				}
				s.store.reopen()
				s.check(t)
			}
			if files := evidenceFiles(t, evidence); len(files) != 0 {
				t.Errorf("evidence against an honest log: %q", files)
			}
		})
	}
}

// check walks the store.
func (s *storm) check(t *testing.T) {
	t.Helper()
	checkStore(t, s.store, s.log)
	offline := open(t, s.log, s.store, "", nil)
	records, dependents := 0, 0
	for _, key := range s.store.keys() {
		if strings.HasPrefix(key, "proved/") {
			dependents++
		}
		path, ok := strings.CutPrefix(key, "sumdb/"+testName+"/lookup/")
		if !ok {
			continue
		}
		records++
		id, _, _, err := tlog.ParseRecord(append(readObject(t, s.store, key), '\n'))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if id >= offline.Size() {
			t.Errorf("record %d is stored, and our head is %d", id, offline.Size())
			continue
		}
		verify(t, offline, s.log, nil, id)
		if s.store.has(gomod(id).Info.Key) {
			dependents--
		}
	}
	if dependents != 0 {
		t.Errorf("%d objects without their records", dependents)
	}
	t.Logf("head %d, %d records", offline.Size(), records)
}
