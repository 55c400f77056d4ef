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

// With sizes, the limit is of their sum, also after values were changed and deleted.
func TestMapSize(t *testing.T) {
	m := memo.Map[string, int]{Limit: 10, Size: func(key string, value int) int { return len(key) + value }}
	for _, step := range []struct {
		key  string
		size int // -1: delete it
		used int
	}{
		{"a", 3, 4}, {"b", 3, 8}, {"a", 5, 10}, {"b", -1, 6}, {"b", -1, 6}, {"c", 3, 10}, {"d", 0, 1}, {"d", 8, 9}, {"d", 9, 10}, {"d", 10, 0},
	} {
		if step.size < 0 {
			m.Delete(step.key)
		} else {
			m.Put(step.key, step.size)
		}
		if value, ok := m.Get(step.key); m.Used() != step.used || ok != (step.size >= 0 && step.used > 0) || ok && value != step.size {
			t.Errorf("after %v: %d are used, the value is %d, %v", step, m.Used(), value, ok)
		}
	}
	m.Clear()
	if m.Put("e", 1); m.Used() != 2 {
		t.Errorf("after Clear: %d are used", m.Used())
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
