package memo_test

import (
	"testing"

	"github.com/assay-proxy/assay/internal/memo"
)

// A full Map drops all entries, and continues.
func TestMapIsBounded(t *testing.T) {
	m := memo.Map[int, int]{Limit: 3}
	for i := range 10 {
		m.Put(i, i)
		if got, ok := m.Get(i); !ok || got != i {
			t.Errorf("Get(%d) = %d, %v", i, got, ok)
		}
		n := 0
		for j := range 10 {
			if _, ok := m.Get(j); ok {
				n++
			}
		}
		if n > 3 {
			t.Fatalf("%d entries are kept, of which the limit is 3", n)
		}
	}
	if m.Put(9, 1); func() int { v, _ := m.Get(9); return v }() != 1 {
		t.Error("a value is not changed")
	}
}

// Outdated entries are dropped first.
func TestMapOutdated(t *testing.T) {
	m := memo.Map[string, bool]{Limit: 2, Outdated: func(old bool) bool { return old }}
	m.Put("old", true)
	m.Put("kept", false)
	m.Put("new", false)
	if _, ok := m.Get("old"); ok {
		t.Error("what is outdated is kept")
	}
	for _, key := range []string{"kept", "new"} {
		if _, ok := m.Get(key); !ok {
			t.Errorf("%s is forgotten", key)
		}
	}
}

func TestMapChange(t *testing.T) {
	m := memo.Map[string, int]{Limit: 2}
	add := func(n int) (int, bool) { return n + 1, n < 2 }
	for range 5 {
		m.Change("n", add)
	}
	if got, _ := m.Get("n"); got != 2 {
		t.Errorf("n is %d, want 2: no change beyond that", got)
	}
	m.Delete("n")
	if _, ok := m.Get("n"); ok {
		t.Error("n is there after it was deleted")
	}
	m.Put("n", 1)
	m.Clear()
	if _, ok := m.Get("n"); ok {
		t.Error("n is there after all was forgotten")
	}
}

func TestKeyOf(t *testing.T) {
	first, again := memo.KeyOf("a"), memo.KeyOf("a")
	if first == memo.KeyOf("b") || first != again {
		t.Error("a key does not stand for its text")
	}
}
