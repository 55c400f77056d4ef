package memo_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/internal/memo"
)

// A full Map drops entries, and continues.
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

// Outdated entries are dropped first, also those that were requested often.
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

	const limit = 1000
	large := memo.Map[int, int]{Limit: limit, Outdated: func(until int) bool { return until < limit/2 }}
	for i := range limit {
		large.Put(i, i)
	}
	for range 5 {
		for i := range limit / 2 {
			large.Get(i)
		}
	}
	large.Put(limit, limit)
	if used := large.Used(); used != limit/2+1 {
		t.Errorf("%d entries are kept, of which %d are not outdated", used, limit/2+1)
	}

	old := memo.Map[int, *bool]{Limit: limit, Outdated: func(old *bool) bool { return *old }}
	for i := range limit + 1 { // it has looked for outdated ones
		old.Put(i, new(bool))
	}
	for i := range limit {
		for range 5 {
			if value, ok := old.Get(i); ok {
				*value = true
			}
		}
	}
	for i := range limit / 2 {
		old.Put(limit+1+i, new(bool))
	}
	for i := range limit / 2 {
		if _, ok := old.Get(limit + 1 + i); !ok {
			t.Fatalf("new entry %d is dropped, and outdated ones are kept", i)
		}
	}
}

// With sizes, the limit is of their sum, also after values were changed and deleted. A value that is
// too large is not kept, and drops only its own key.
func TestMapSize(t *testing.T) {
	m := memo.Map[string, int]{Limit: 10, Size: func(key string, value int) int { return len(key) + value }}
	for _, step := range []struct {
		key  string
		size int // -1: delete it
		used int
	}{
		{"a", 3, 4}, {"b", 3, 8}, {"a", 5, 10}, {"b", -1, 6}, {"b", -1, 6}, {"c", 3, 10}, {"d", 0, 7}, {"d", 8, 9}, {"d", 9, 10}, {"d", 10, 0},
	} {
		if step.size < 0 {
			m.Delete(step.key)
		} else {
			m.Put(step.key, step.size)
		}
		if value, ok := m.Get(step.key); m.Used() != step.used || ok != (step.size >= 0 && step.key != "d" || step.key == "d" && step.size < 10) || ok && value != step.size {
			t.Errorf("after %v: %d are used, the value is %d, %v", step, m.Used(), value, ok)
		}
	}
	m.Put("e", 3)
	if m.Put("f", 10); m.Used() != 4 {
		t.Errorf("after a value that is larger than the limit: %d are used", m.Used())
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

// cache is a Map in which a test requests what is made when it is not there.
type cache struct {
	memo.Map[int, int]
}

func newCache(limit int) *cache { return &cache{Map: memo.Map[int, int]{Limit: limit}} }

// request requests keys, the first one to the last one, and returns how many had to be made.
func (c *cache) request(first, n int) (made int) {
	for key := first; key < first+n; key++ {
		if _, ok := c.Get(key); !ok {
			c.Put(key, key)
			made++
		}
	}
	return made
}

const (
	limit   = 1000
	working = limit / 2 // what others request
	others  = 1 << 20   // the first key that they do not request
)

// newWorking returns a full cache in which the working set was requested between other requests.
func newWorking() *cache {
	c := newCache(limit)
	c.request(0, working)
	for i := range 10 {
		c.request(others/2+i*limit/8, limit/8)
		c.request(0, working)
	}
	return c
}

// What is requested once does not displace what is requested again, however much it is and however
// seldom the working set is requested meanwhile. The same for several clients that request it at nearly
// the same time, and for a client that begins again at the end of a long scan.
func TestMapScan(t *testing.T) {
	for _, scan := range []struct {
		name string
		run  func(c *cache, between func())
	}{
		{"once", func(c *cache, between func()) {
			for i := range 10 * limit {
				c.request(others+i, 1)
				between()
			}
		}},
		{"by eight clients at once", func(c *cache, between func()) {
			for i := range 10 * limit {
				for ahead := range 8 {
					c.request(others+i+4*ahead, 1)
				}
				between()
			}
		}},
		{"three times", func(c *cache, between func()) {
			for i := range 30 * limit {
				c.request(others+i%(10*limit), 1)
				between()
			}
		}},
	} {
		for _, every := range []int{0, 1, 10, 100} { // how many requests of the scan there are for one of others
			c, n, made := newWorking(), 0, 0
			scan.run(c, func() {
				if n++; every > 0 && n%every == 0 {
					made += c.request(n/every%working, 1)
				}
			})
			if made += c.request(0, working); made > 0 {
				t.Errorf("%s, with one request of others for %d: %d of theirs had to be made again", scan.name, every, made)
			}
		}
	}
}

// A client that requests everything twice, the second time a little later, does not displace what
// others request a quarter as often as it requests anything.
func TestMapTwice(t *testing.T) {
	c, n, made := newWorking(), 0, 0
	for first := others; first < others+20*limit; first += limit / 10 {
		for range 2 {
			for i := range limit / 10 {
				c.request(first+i, 1)
				if i%4 == 0 {
					made += c.request(n%working, 1)
					n++
				}
			}
		}
	}
	if made > 0 {
		t.Errorf("%d of %d objects that others requested had to be made again", made, n)
	}
}

// A working set that is replaced by another one leaves, when the new one is requested as often.
func TestMapForgets(t *testing.T) {
	c := newWorking()
	for range 20 {
		c.request(others, working)
		c.request(2*others, limit/8)
	}
	if made := c.request(others, working); made > working/100 {
		t.Errorf("%d of the new working set of %d are not kept", made, working)
	}
	for range 20 {
		c.request(others, limit*3/4)
	}
	if made := c.request(0, working); made < working/2 {
		t.Errorf("%d of %d that are not requested any more are kept", working-made, working)
	}
}

// A Put into a Map whose entries were all requested again looks at some of them only, so that it is
// short. After a number of Puts new entries are kept.
func TestMapAllInUse(t *testing.T) {
	c := newCache(100_000)
	c.request(0, c.Limit)
	c.request(0, c.Limit)
	if c.Put(-1, 0); c.request(-1, 1) == 0 {
		t.Error("a new entry is kept, so all others have been looked at")
	}
	for i := range 2000 {
		c.request(2*others+i, 1)
	}
	if made := c.request(2*others+1900, 100); made > 0 {
		t.Errorf("%d of 100 new entries are not kept", made)
	}
}

// A full Map uses the memory of what it drops again, and a request of what it has takes none.
func TestMapMemory(t *testing.T) {
	m := memo.Map[int, [100]byte]{Limit: 100}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range 100_000 {
		m.Put(i, [100]byte{})
		m.Put(i/2, [100]byte{})
		m.Delete(i / 3)
	}
	runtime.ReadMemStats(&after)
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 1<<20 {
		t.Errorf("%d bytes were allocated for 100 entries of 100 bytes", taken)
	}
	m.Put(1, [100]byte{})
	if allocs := testing.AllocsPerRun(1000, func() { m.Get(1) }); allocs > 0 {
		t.Errorf("Get allocates %v times", allocs)
	}
}

// Small entries that are deleted and changed during a scan leave no room unused, and what a Map drops
// it does not return.
func TestMapDeleteDuringScan(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	m := memo.Map[int, int]{Limit: 1000, Size: func(_, size int) int { return size }}
	sizes := map[int]int{} // the last one of each key
	for i := range 100_000 {
		key := i
		if i%4 == 0 {
			key = random.IntN(100)
		}
		size := random.IntN(40)
		if i%5 == 0 {
			m.Delete(key)
			delete(sizes, key)
		} else {
			m.Put(key, size)
			sizes[key] = size
		}
		look := random.IntN(100)
		if got, ok := m.Get(look); ok && got != sizes[look] {
			t.Fatalf("Get(%d) = %d, want %d", look, got, sizes[look])
		}
		if used := m.Used(); used > m.Limit || i > 1000 && used < m.Limit*3/4 {
			t.Fatalf("%d of %d are used", used, m.Limit)
		}
	}
	sum := 0
	for key := range sizes {
		if size, ok := m.Get(key); ok {
			sum += size
			m.Delete(key)
		}
	}
	if sum == 0 || m.Used() != 0 {
		t.Errorf("%d were used, and %d are after all keys were deleted", sum, m.Used())
	}
}

// The limit holds at each moment, whatever callers do at once.
func TestMapConcurrent(t *testing.T) {
	m := memo.Map[int, []byte]{
		Limit: 10_000, Size: func(_ int, value []byte) int { return cap(value) },
		Outdated: func(value []byte) bool { return cap(value)%16 == 3 },
	}
	var most atomic.Int64
	var callers sync.WaitGroup
	for caller := range uint64(8) {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(caller, 1))
			for range 5_000 {
				key := random.IntN(1000)
				switch random.IntN(8) {
				case 0:
					m.Delete(key)
				case 1:
					m.Change(key, func(old []byte) ([]byte, bool) { return append(old[:cap(old):cap(old)], 1), cap(old) < 500 })
				case 2:
					m.Put(key, make([]byte, random.IntN(m.Limit+m.Limit/8)))
				case 3, 4:
					m.Put(key, make([]byte, random.IntN(200)))
				default:
					m.Get(key)
				}
				if used := int64(m.Used()); used > most.Load() {
					most.Store(used)
				}
			}
		})
	}
	callers.Wait()
	if most.Load() > int64(m.Limit) || most.Load() < int64(m.Limit)/2 {
		t.Errorf("%d of %d were used", most.Load(), m.Limit)
	}
	for key := range 1000 {
		m.Delete(key)
	}
	if m.Used() != 0 {
		t.Errorf("%d are used after all keys were deleted", m.Used())
	}
}

func BenchmarkGet(b *testing.B) {
	m := memo.Map[string, *int]{Limit: 1000}
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprintf("example.com/module/@v/v1.0.%d.mod", i)
		m.Put(keys[i], new(int))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok := m.Get(keys[i%len(keys)]); !ok {
			b.Fatal("it is not there")
		}
	}
}

// BenchmarkPut puts new keys into a full Map.
func BenchmarkPut(b *testing.B) {
	m := memo.Map[int, *int]{Limit: 1000}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Put(i, nil)
	}
}

func TestKeyOf(t *testing.T) {
	first, again := memo.KeyOf("a"), memo.KeyOf("a")
	if first == memo.KeyOf("b") || first != again {
		t.Error("a key does not stand for its text")
	}
}
