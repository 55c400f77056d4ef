package tiered

import (
	"testing"
	"time"
)

// Settle waits until nothing is on its way to the local store, and no object that is on its way is open.
func (s *Store) Settle(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); s.lines.busy() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d keys are still on their way", s.lines.busy())
		}
	}
}

// Patience sets how long a reader waits for the local disk.
func (s *Store) Patience(d time.Duration) { s.writer.fills.patience = d }

const MaxBuffer = maxBuffer

// Readers returns how many readers wait for the content of a key, or follow it.
func (s *Store) Readers(key string) int {
	fills := s.writer.fills
	fills.mu.Lock()
	defer fills.mu.Unlock()
	if f := fills.byKey[key]; f != nil {
		return len(f.readers)
	}
	return 0
}
