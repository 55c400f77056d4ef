package news

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// replica returns the board of a replica whose store is in the bucket of server.
func replica(t *testing.T, server *s3test.Server) *Board {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	store, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: server.URL, Region: "us-east-1", PathStyle: true, Spool: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	b := New(store, slog.New(slog.DiscardHandler))
	b.every = 5 * time.Millisecond
	return b
}

// follow subscribes to a kind of news, runs b, and returns the changes that come.
func follow(t *testing.T, b *Board, kind string) <-chan Changes {
	t.Helper()
	got := make(chan Changes, 1000)
	b.Subscribe(kind, func(_ context.Context, c Changes) error {
		got <- c
		return nil
	})
	run(t, b)
	return got
}

func run(t *testing.T, b *Board) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
}

// next returns the next changes, or fails after a long time.
func next(t *testing.T, got <-chan Changes) Changes {
	t.Helper()
	select {
	case c := <-got:
		return c
	case <-time.After(2 * time.Minute):
		t.Fatal("no news")
		return Changes{}
	}
}

// await waits until every subject has come, or All.
func await(t *testing.T, got <-chan Changes, subjects ...string) {
	t.Helper()
	missing := slices.Clone(subjects)
	for len(missing) > 0 {
		c := next(t, got)
		if c.All {
			return
		}
		missing = slices.DeleteFunc(missing, func(s string) bool { return slices.Contains(c.Subjects, s) })
	}
}

func tell(t *testing.T, b *Board, events ...Event) {
	t.Helper()
	if err := b.Post(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
}

// TestNews posts at one replica and reads at another one, which looks at everything once and then at what is new.
func TestNews(t *testing.T) {
	server := s3test.Start(t)
	a, b := replica(t, server), replica(t, server)
	tell(t, a, Event{"push", "before.example/x"})
	got := follow(t, b, "push")
	if c := next(t, got); !c.All {
		t.Fatalf("first: %+v, want All", c)
	}
	tell(t, a, Event{"push", "example.com/a b"}, Event{"other", "x"}, Event{"push", "example.com/c"}, Event{"push", "example.com/c"})
	if c := next(t, got); c.All || !slices.Equal(c.Subjects, []string{"example.com/a b", "example.com/c"}) {
		t.Fatalf("then: %+v", c)
	}
	tell(t, a, Event{"push", ""})
	if c := next(t, got); !c.All || c.Subjects != nil {
		t.Fatalf("an event without a subject: %+v, want All", c)
	}
	tell(t, a, Event{"push", "two\nlines"})
	if c := next(t, got); !c.All {
		t.Fatalf("a subject of two lines: %+v, want All", c)
	}
}

// TestOwnNews shows that a replica gets its own news.
func TestOwnNews(t *testing.T) {
	b := replica(t, s3test.Start(t))
	got := follow(t, b, "purge")
	next(t, got)
	tell(t, b, Event{"purge", "example.com/a"})
	await(t, got, "example.com/a")
}

// TestAll posts from several replicas at once: each event reaches each of them.
func TestAll(t *testing.T) {
	server := s3test.Start(t)
	var boards []*Board
	var all []<-chan Changes
	for range 3 {
		b := replica(t, server)
		got := follow(t, b, "push")
		next(t, got)
		boards, all = append(boards, b), append(all, got)
	}
	var subjects []string
	var posting sync.WaitGroup
	for i, b := range boards {
		for n := range 30 {
			subject := fmt.Sprintf("example.com/%d/%d", i, n)
			subjects = append(subjects, subject)
			posting.Go(func() { tell(t, b, Event{"push", subject}) })
		}
	}
	posting.Wait()
	for _, got := range all {
		await(t, got, subjects...)
	}
}

// TestMissed loses news: those that have left the page, and those of a state that was set back, replaced or damaged.
// The subscriber looks at everything each time.
func TestMissed(t *testing.T) {
	start := page{id: "A"}.with([]Event{{"push", "a"}}, time.Now())
	first := start.with([]Event{{"push", "b"}}, time.Now())
	if events, missed := first.since(start); missed || len(events) != 1 {
		t.Errorf("one new event: %v, missed %v", events, missed)
	}
	if events, missed := first.since(first); missed || len(events) != 0 {
		t.Errorf("the same page: %v, missed %v", events, missed)
	}
	for name, p := range map[string]page{
		"old events left":   first.with([]Event{{"push", "c"}}, time.Now().Add(2*kept)),
		"all left":          first.with(nil, time.Now().Add(2*kept)),
		"another board":     {id: "B", next: 2, items: first.items},
		"no page":           decode([]byte("something else")),
		"a later version":   decode([]byte("news2 A 5\n")),
		"a damaged line":    decode([]byte("news A 5\n4 x push a\n")),
		"a gap":             {id: "A", next: 4, items: []item{{3, 0, "-", Event{"push", "x"}}}},
		"fewer than before": {id: "A", next: 0},
		// Set back to before what was seen, and then with other events.
		"as many others": page{id: "A"}.with([]Event{{"push", "x"}}, time.Now()),
		"more others":    page{id: "A"}.with([]Event{{"push", "x"}}, time.Now()).with([]Event{{"push", "y"}}, time.Now()),
		"more at once":   page{id: "A"}.with([]Event{{"push", "x"}, {"push", "y"}}, time.Now()),
	} {
		if _, missed := p.since(start); !missed {
			t.Errorf("%s: not missed", name)
		}
	}
	many := page{id: "A"}
	for range mostItems + 10 {
		many = many.with([]Event{{"push", "a"}}, time.Now())
	}
	if len(many.items) != mostItems {
		t.Errorf("%d events on the page, want %d", len(many.items), mostItems)
	}
	if again := decode(many.encode()); !slices.Equal(again.items, many.items) || again.next != many.next || again.id != many.id || again.tip != many.tip {
		t.Error("a page differs after encode and decode")
	}
}

// TestPageOfEarlierVersion reads a page without tips, and adds an event: its reader has missed nothing.
func TestPageOfEarlierVersion(t *testing.T) {
	old := decode([]byte("news A 2\n0 5 push a\n1 6 push b c\n"))
	if old.id != "A" || old.next != 2 || len(old.items) != 2 || old.items[1].event != (Event{"push", "b c"}) {
		t.Fatalf("%+v", old)
	}
	if events, missed := old.since(page{id: "A", next: 1}); missed || len(events) != 1 {
		t.Errorf("two pages of an earlier version: %v, missed %v", events, missed)
	}
	p := decode(old.with([]Event{{"push", "d"}}, time.UnixMilli(7)).encode())
	if events, missed := p.since(old); missed || !slices.Equal(events, []Event{{"push", "d"}}) {
		t.Errorf("an event of this version: %v, missed %v", events, missed)
	}
}

// TestAway cuts a replica off: it gets all news, or is told to look at everything, when the store answers again.
func TestAway(t *testing.T) {
	server := s3test.Start(t)
	b := replica(t, server)
	got := follow(t, b, "freeze")
	next(t, got)
	failed := make(chan struct{}, 1000)
	server.Fail(func(s3test.Request) s3test.Fault {
		select {
		case failed <- struct{}{}:
		default:
		}
		return s3test.Fault{Before: 403, Code: "AccessDenied"}
	})
	<-failed
	if n := testutil.CollectAndCount(b.metrics.read); n != 1 || testutil.ToFloat64(b.metrics.read) == 0 {
		t.Error("the metrics do not say when news were read")
	}
	if err := b.Post(t.Context(), Event{"freeze", "x"}); err == nil {
		t.Error("Post to a store that refuses everything: no error")
	}
	server.Fail(nil)
	tell(t, b, Event{"freeze", "y"})
	await(t, got, "y")
}

// TestAgain shows that a change is not lost when the subscriber fails, and that another subscriber does not wait for it.
func TestAgain(t *testing.T) {
	b := replica(t, s3test.Start(t))
	tell(t, b, Event{"push", "before"}) // the first event of a board is everything
	var mu sync.Mutex
	fails, got := true, make(chan Changes, 1000)
	b.Subscribe("push", func(_ context.Context, c Changes) error {
		mu.Lock()
		defer mu.Unlock()
		if fails && !c.All {
			return errors.New("not now")
		}
		got <- c
		return nil
	})
	other := follow(t, b, "purge")
	next(t, got)
	next(t, other)
	tell(t, b, Event{"push", "a"}, Event{"purge", "p"})
	await(t, other, "p")
	tell(t, b, Event{"push", "b"}, Event{"purge", "q"})
	await(t, other, "q")
	for end := time.Now().Add(time.Minute); testutil.ToFloat64(b.metrics.failed) < 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no failure is counted")
		}
	}
	mu.Lock()
	fails = false
	mu.Unlock()
	if c := next(t, got); !slices.Equal(c.Subjects, []string{"a", "b"}) && !slices.Equal(c.Subjects, []string{"a"}) {
		t.Errorf("after failures: %+v", c)
	}
}

// TestMany tells a subscriber that does not keep up to look at everything.
func TestMany(t *testing.T) {
	s := &subscriber{kind: "push", wake: make(chan struct{}, 1)}
	for n := range mostPending + 1 {
		s.tell([]Event{{"push", fmt.Sprint(n)}}, false)
	}
	if !s.pending.All || s.pending.Subjects != nil {
		t.Errorf("%d subjects wait", len(s.pending.Subjects))
	}
}

// TestDamagedPage replaces a page that is damaged in the bucket.
func TestDamagedPage(t *testing.T) {
	b := replica(t, s3test.Start(t))
	broken := New(damaged{b.store}, slog.New(slog.DiscardHandler))
	tell(t, broken, Event{"push", "a"})
	p, _, err := (&reader{store: b.store}).read(t.Context())
	if err != nil || len(p.items) != 1 {
		t.Errorf("page %+v, %v", p, err)
	}
}

// damaged is a store whose states cannot be read.
type damaged struct{ storage.Store }

func (damaged) State(context.Context, string) ([]byte, error) { return nil, storage.ErrDamaged }

// TestAlone shows that a program that is alone sends nothing.
func TestAlone(t *testing.T) {
	b := Alone()
	b.Subscribe("push", func(context.Context, Changes) error { t.Error("called"); return nil })
	run(t, b)
	tell(t, b, Event{"push", "a"})
	if b.Shared() {
		t.Error("Shared")
	}
}

// TestListen shows that the only server hears what a command posts.
func TestListen(t *testing.T) {
	server := s3test.Start(t)
	command := replica(t, server)
	b := Listen(replica(t, server).store, slog.New(slog.DiscardHandler))
	b.every = command.every
	got := follow(t, b, "purge")
	next(t, got)
	tell(t, command, Event{"purge", "a"})
	await(t, got, "a")
	if b.Shared() {
		t.Error("Shared")
	}
}

// TestIdle counts the requests of a replica that has nothing to do: one for each look.
func TestIdle(t *testing.T) {
	for _, confirmed := range []bool{false, true} {
		t.Run(fmt.Sprint(confirmed), func(t *testing.T) { testIdle(t, confirmed) })
	}
}

func testIdle(t *testing.T, confirmed bool) {
	server := s3test.Start(t)
	b := replica(t, server)
	if confirmed {
		tell(t, b, Event{"push", "a"})
		b.Confirm(func(context.Context) error { t.Error("confirm was called"); return nil })
	}
	looks := make(chan struct{}, 1000)
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op != "GET" || !strings.HasSuffix(r.Key, "s/news") {
			t.Errorf("request %s %s", r.Op, r.Key)
		}
		looks <- struct{}{}
		return s3test.Fault{}
	})
	run(t, b)
	for range 5 {
		<-looks
	}
}

// TestConfirm removes, replaces and sets back the page: each time the store is confirmed. While it is another one, the
// board only asks for that, and after it everything is looked at.
func TestConfirm(t *testing.T) {
	server := s3test.Start(t)
	b := replica(t, server)
	const key = "s/news"
	var mu sync.Mutex
	var wrong error
	set := func(err error) { mu.Lock(); defer mu.Unlock(); wrong = err }
	asked := make(chan struct{}, 1000)
	b.Confirm(func(context.Context) error {
		select {
		case asked <- struct{}{}:
		default:
		}
		mu.Lock()
		defer mu.Unlock()
		return wrong
	})
	got := follow(t, b, "push")
	next(t, got)
	<-asked // there was no page
	if keys := server.Keys(key); len(keys) != 1 {
		t.Fatalf("keys %v, want a page", keys)
	}
	var old []byte
	server.Change(key, func(b []byte) []byte { old = b; return b })
	for name, change := range map[string]func([]byte) []byte{
		"gone":  func([]byte) []byte { return nil },
		"older": func([]byte) []byte { return old },
	} {
		tell(t, b, Event{"push", name})
		await(t, got, name)
		for len(asked) > 0 {
			<-asked
		}
		set(errors.New("another store"))
		server.Change(key, change)
		<-asked
		reads := make(chan struct{}, 1)
		server.Fail(func(r s3test.Request) s3test.Fault {
			if r.Op == "GET" {
				reads <- struct{}{} // one look may be under way
			}
			return s3test.Fault{}
		})
		<-asked
		<-asked
		if len(got) > 0 {
			t.Errorf("%s: news of another store: %+v", name, <-got)
		}
		server.Fail(nil)
		set(nil)
		if c := next(t, got); !c.All {
			t.Errorf("%s: %+v, want All", name, c)
		}
	}
}

// TestMetrics shows what a board says of itself: when it read the news, and how often it may have missed some; not that
// of a program that is alone.
func TestMetrics(t *testing.T) {
	server := s3test.Start(t)
	b := replica(t, server)
	tell(t, b, Event{"push", "before"})
	begin := time.Now()
	got := follow(t, b, "push")
	next(t, got)
	if read := testutil.ToFloat64(b.metrics.read); read < float64(begin.Unix()) {
		t.Errorf("the news were read at %v, before the start", read)
	}
	if n := testutil.ToFloat64(b.metrics.missed); n != 0 {
		t.Errorf("%v times missed at the start", n)
	}
	if err := b.store.SetState(t.Context(), state, page{id: "another"}.with([]Event{{"push", "a"}}, time.Now()).encode()); err != nil {
		t.Fatal(err)
	}
	if c := next(t, got); !c.All {
		t.Errorf("another board: %+v, want All", c)
	}
	if n := testutil.ToFloat64(b.metrics.missed); n != 1 {
		t.Errorf("%v times missed, want 1", n)
	}
	if len(b.Metrics()) != 3 || Alone().Metrics() != nil {
		t.Error("not the metrics of a board with news")
	}
}
