package memory_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
)

// A taker without enough bytes waits, in order of arrival, and is refused when its time
// is over.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(100)
		if !b.Try(60) {
			t.Fatal("60 of 100 are refused")
		}
		var order []int64
		for _, n := range []int64{70, 40} { // 40 would fit at once, but 70 came first
			go func() {
				if err := b.Take(t.Context(), n); err != nil {
					t.Error(err)
				}
				order = append(order, n)
				b.Give(n)
			}()
			synctest.Wait()
		}
		if len(order) != 0 || b.Try(1) {
			t.Errorf("%v overtook a caller that waits", order)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Take(ctx, 90); !errors.Is(err, memory.ErrFull) {
			t.Errorf("after its time: %v", err)
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if err := b.Take(gone, 90); !errors.Is(err, context.Canceled) {
			t.Errorf("after its client has left: %v", err)
		}
		b.Give(60)
		synctest.Wait()
		if len(order) != 2 || order[0] != 70 {
			t.Errorf("served %v", order)
		}
		if b.Used() != 0 {
			t.Errorf("%d bytes are lost", b.Used())
		}
	})
}

// More bytes than the budget has are refused at once, and so is a taker beyond the limit
// of the queue.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(100)
		if err := b.Take(t.Context(), 101); !errors.Is(err, memory.ErrFull) {
			t.Errorf("101 of 100: %v", err)
		}
		b.Try(100)
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		for range 64 {
			go b.Take(ctx, 1)
		}
		synctest.Wait()
		if err := b.Take(ctx, 1); !errors.Is(err, memory.ErrFull) {
			t.Errorf("the 65th caller that waits: %v", err)
		}
	})
}

// Two holders that each have a half and want more do not wait for each other.
func TestHold(t *testing.T) {
	b := memory.New(100)
	first, second := b.Hold(), b.Hold()
	if err := errors.Join(first.Grow(t.Context(), 50), second.Grow(t.Context(), 50)); err != nil {
		t.Fatal(err)
	}
	if err := first.Grow(t.Context(), 60); !errors.Is(err, memory.ErrFull) {
		t.Errorf("more than there is: %v", err)
	}
	second.Free()
	if err := first.Grow(t.Context(), 60); err != nil || b.Used() != 60 {
		t.Errorf("after the other is done: %v, %d used", err, b.Used())
	}
	first.Shrink(60)
	first.Shrink(70)
	if b.Used() != 60 {
		t.Errorf("%d used after a Shrink to as much or more", b.Used())
	}
	first.Shrink(20)
	if b.Used() != 20 || first.Bytes() != 20 {
		t.Errorf("%d used, %d held after a Shrink to 20", b.Used(), first.Bytes())
	}
	if err := second.Try(80); err != nil {
		t.Errorf("what Shrink gave back: %v", err)
	}
	first.Free()
	first.Free()
	second.Free()
	second.Free()
	if b.Used() != 0 {
		t.Errorf("%d bytes are lost", b.Used())
	}
}

// A part takes nothing from another part.
func TestPart(t *testing.T) {
	b := memory.New(100)
	one, two := b.Part(60), b.Part(40)
	one.Try(60)
	if one.Try(1) || !two.Try(40) || b.Try(1) {
		t.Error("the parts are not kept apart")
	}
	defer func() {
		if recover() == nil {
			t.Error("more parts than there are bytes")
		}
	}()
	b.Part(1)
}

// Without a budget there is no limit.
func TestUnbounded(t *testing.T) {
	var b *memory.Budget
	part := b.Part(1 << 40)
	h := part.Hold()
	if err := errors.Join(h.Grow(t.Context(), 1<<50), b.Take(t.Context(), 1<<50)); err != nil || !b.Try(1<<60) {
		t.Errorf("refused: %v", err)
	}
	h.Free()
	b.Must(1)
	b.Give(1)
	if b.Used() != 0 || b.Size() != 0 || b.Refused() != 0 {
		t.Error("it counts")
	}
}

// Read returns all bytes, whatever the stated size was; it takes the memory before it
// makes the buffer, and never more than the limit needs.
func TestRead(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	for _, limit := range []int64{0, 1, 8 << 10, int64(len(content)) - 1, int64(len(content)), 1 << 20} {
		for _, said := range []int64{-1, 0, 10, int64(len(content))} {
			b := memory.New(256 << 10)
			h := b.Hold()
			data, err := h.Read(t.Context(), iotest.OneByteReader(bytes.NewReader(content)), said, limit)
			if err != nil {
				t.Fatal(err)
			}
			if want := min(int64(len(content)), limit+1); int64(len(data)) != want || !bytes.HasPrefix(content, data) {
				t.Errorf("said %d, limit %d: %d bytes, want %d", said, limit, len(data), want)
			}
			if used := b.Used(); used < int64(len(data)) || used > 2*limit+2 {
				t.Errorf("said %d, limit %d: %d bytes are counted", said, limit, used)
			}
			h.Free()
		}
	}
	exact := memory.New(int64(len(content))*3/2 + 1) // a doubled buffer is copied from one of half its size
	held := exact.Hold()
	defer held.Free()
	if data, err := held.Read(t.Context(), bytes.NewReader(content), -1, int64(len(content))); err != nil || len(data) != len(content) {
		t.Errorf("as long as its limit: %d bytes, %v", len(data), err)
	}
	b := memory.New(20 << 10)
	h := b.Hold()
	defer h.Free()
	if data, err := h.Read(t.Context(), bytes.NewReader(content), -1, 1<<20); !errors.Is(err, memory.ErrFull) || cap(data) > 20<<10 {
		t.Errorf("more than the budget: %d bytes, %v", cap(data), err)
	}
	broken := errors.New("broken")
	if _, err := h.Read(t.Context(), iotest.ErrReader(broken), 10, 10); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// While any number of callers take, give and leave at the same time, the budget never
// gives more than it has, gets all bytes back, and forgets no caller.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	b := memory.New(1000)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for range 2000 {
				n := random.Int64N(400) + 1
				if random.IntN(2) == 0 {
					if b.Try(n) {
						b.Give(n)
					}
					continue
				}
				if random.IntN(3) == 0 {
					ctx, cancel := context.WithTimeout(memory.WithOwner(context.Background(), string(rune('a'+random.IntN(3)))), time.Minute)
					h := b.HoldFor(ctx)
					if h.Grow(ctx, n) == nil {
						_ = h.Try(n + random.Int64N(100))
					}
					h.Free()
					cancel()
					continue
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(50))*time.Microsecond)
				if random.IntN(4) == 0 {
					cancel()
					ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
				}
				if b.Take(ctx, n) == nil {
					if used := b.Used(); used > 1000 {
						t.Errorf("%d of 1000 are used", used)
					}
					b.Give(n)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if b.Used() != 0 || !b.Try(1000) {
		t.Errorf("%d bytes are lost", b.Used())
	}
}

// One owner leaves some bytes to the next: waiters whose owner has its part do not block
// others. A single hold may take all.
func TestOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(100)
		mallory, alice := memory.WithOwner(t.Context(), "mallory"), memory.WithOwner(t.Context(), "alice")
		grow := func(ctx context.Context, n int64) (*memory.Hold, error) {
			h := b.HoldFor(ctx)
			return &h, h.Grow(ctx, n)
		}
		first, err := grow(mallory, 70)
		if err != nil {
			t.Fatal(err)
		}
		if second := b.HoldFor(mallory); second.Try(10) == nil {
			t.Error("one owner has more than three quarters")
		}
		impatient, cancel := context.WithCancel(mallory)
		var waiting sync.WaitGroup
		var full atomic.Int32
		for range 60 {
			waiting.Go(func() {
				if _, err := grow(impatient, 10); errors.Is(err, memory.ErrFull) {
					full.Add(1)
				}
			})
		}
		synctest.Wait()
		if n := full.Load(); n != 12 {
			t.Errorf("%d of 60 that wait for one owner were refused, want 12", n)
		}
		other, err := grow(alice, 20)
		if err != nil {
			t.Errorf("another owner: %v", err)
		}
		if !b.Try(5) {
			t.Error("what has no owner is refused because of some whose owner has its part")
		}
		b.Give(5)
		cancel()
		waiting.Wait()
		other.Free()
		first.Free()
		all, err := grow(mallory, 100)
		if err != nil {
			t.Errorf("a single hold of all: %v", err)
		}
		all.Free()
		if b.Used() != 0 {
			t.Errorf("%d bytes are lost", b.Used())
		}
	})
}

// A waiter whose owner has its part is served when that owner gives bytes back.
func TestOwnerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(100)
		ctx := memory.WithOwner(t.Context(), "alice")
		first, second := b.HoldFor(ctx), b.HoldFor(ctx)
		if err := first.Grow(ctx, 60); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- second.Grow(ctx, 30) }()
		synctest.Wait()
		if b.Used() != 60 {
			t.Errorf("%d bytes are used", b.Used())
		}
		first.Free()
		if err := <-done; err != nil || b.Used() != 30 {
			t.Errorf("%v, %d bytes are used", err, b.Used())
		}
		second.Free()
	})
}
