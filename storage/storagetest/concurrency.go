package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
)

func concurrencyTests() []contract {
	return []contract{
		{"many create, read, list and delete at the same time", concurrentMix},
		{"deleting and creating the same content at the same time loses nothing", concurrentShared},
		{"an object is complete for whoever sees it first", concurrentFirstSight},
	}
}

func concurrentMix(t *testing.T, s storage.Store) {
	sizes := []int{10, 3000, 40 << 10, 300 << 10}
	const keys = 12
	parallel(t, 8, func(w int) {
		rng := rand.New(rand.NewPCG(uint64(w), 0))
		for range 60 {
			n := rng.IntN(keys)
			key, content := fmt.Sprintf("mix/%02d", n), Content(uint64(n), sizes[n%len(sizes)])
			switch rng.IntN(5) {
			case 0, 1:
				info := storage.Info{Key: key, Size: int64(len(content))}
				if err := s.Create(t.Context(), info, bytes.NewReader(content)); err != nil && !errors.Is(err, fs.ErrExist) {
					t.Errorf("Create(%q): %v", key, err)
				}
			case 2, 3:
				got, err := read(t.Context(), s, key)
				if err == nil {
					expectBytes(t, key, got, content)
				} else if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("reading %q: %v", key, err)
				}
			case 4:
				if err := s.Delete(t.Context(), key); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Delete(%q): %v", key, err)
				}
			}
		}
		list(t, s, "mix/")
	})
}

// concurrentShared creates and deletes the same content under several keys concurrently, so
// that deletions and creations often overlap.
func concurrentShared(t *testing.T, s storage.Store) {
	content := Content(1, 300<<10)
	parallel(t, 4, func(w int) {
		for i := range 12 {
			key := fmt.Sprintf("shared/%d/%d", w, i)
			create(t, s, key, content)
			expectContent(t, s, key, content)
			if i%4 != 0 {
				if err := s.Delete(t.Context(), key); err != nil {
					t.Errorf("Delete(%q): %v", key, err)
				}
			}
		}
	})
	for w := range 4 {
		for i := 0; i < 12; i += 4 {
			expectContent(t, s, fmt.Sprintf("shared/%d/%d", w, i), content)
		}
	}
}

func concurrentFirstSight(t *testing.T, s storage.Store) {
	for round, size := range []int{20, 2 << 20, 20, 600 << 10} {
		key, content := fmt.Sprint("sight", round), Content(uint64(round), size)
		parallel(t, 4, func(w int) {
			if w == 0 {
				create(t, s, key, content)
				return
			}
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
				got, err := read(t.Context(), s, key)
				if err == nil {
					expectBytes(t, key, got, content)
					return
				}
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("reading: %v", err)
					return
				}
			}
			t.Error("the object did not appear")
		})
	}
}
