package bindings_test

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

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// replica returns the table of a replica whose store is in the bucket of server, and its board.
func replica(t *testing.T, server *s3test.Server) (*bindings.Table, *news.Board) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	store, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: server.URL, Region: "us-east-1", PathStyle: true, Spool: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	board := news.New(store, slog.New(slog.DiscardHandler))
	table, err := bindings.Load(t.Context(), store, board)
	if err != nil {
		t.Fatal(err)
	}
	return table, board
}

func note(t *testing.T, table *bindings.Table, facts ...bindings.Fact) {
	t.Helper()
	for _, f := range facts {
		if err := table.Note(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
}

// refreshed checks that a table has a fact after Refresh.
func refreshed(t *testing.T, table *bindings.Table, f bindings.Fact) {
	t.Helper()
	if err := table.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := table.At(f.Repository); !slices.Contains(got, f) {
		t.Errorf("facts about %s: %v, want %v among them", f.Repository, got, f)
	}
}

// Replicas that note facts about the same repository at the same time lose none, and each has all of them after
// Refresh, as one that starts later has.
func TestReplicasLoseNothing(t *testing.T) {
	server := s3test.Start(t)
	var tables []*bindings.Table
	for range 3 {
		table, _ := replica(t, server)
		tables = append(tables, table)
	}
	var all []bindings.Fact
	var noting sync.WaitGroup
	for i, table := range tables {
		for n := range 8 {
			f := bindings.Fact{Repository: "git.example/r", Module: fmt.Sprintf("m%d.example/%d", i, n), How: bindings.Credential}
			other := bindings.Fact{Repository: fmt.Sprintf("git.example/%d", n), Module: fmt.Sprintf("o%d.example/%d", i, n), How: bindings.Open}
			all = append(all, f, other)
			noting.Go(func() {
				if err := errors.Join(table.Note(t.Context(), f), table.Note(t.Context(), other)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	noting.Wait()
	late, _ := replica(t, server)
	for _, f := range all {
		for _, table := range append(tables, late) {
			refreshed(t, table, f)
		}
	}
}

// A weaker fact of one replica does not replace the stronger one of another, in either order.
func TestReplicasKeepTheStrongest(t *testing.T) {
	server := s3test.Start(t)
	a, _ := replica(t, server)
	b, _ := replica(t, server)
	open := bindings.Fact{Repository: "git.example/r", Module: "m.example/r", How: bindings.Open}
	credential := open
	credential.How = bindings.Credential
	note(t, a, credential)
	note(t, b, open)
	refreshed(t, b, credential)
	note(t, b, bindings.Fact{Repository: "git.example/r", Module: "m.example/s", How: bindings.Open})
	refreshed(t, a, bindings.Fact{Repository: "git.example/r", Module: "m.example/s", How: bindings.Open})
	refreshed(t, a, credential)
}

// A replica is told of a fact by news, also if those before were missed.
func TestReplicasAreTold(t *testing.T) {
	server := s3test.Start(t)
	a, _ := replica(t, server)
	b, board := replica(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { board.Run(ctx) })
	defer running.Wait()
	defer cancel()
	note(t, a, pay)
	for deadline := time.Now().Add(2 * time.Minute); len(b.At(pay.Repository)) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the other replica is not told")
		}
	}
}

// What a table says it knows includes all that another one had noted: a replica with a fact has a generation that
// those without it do not know.
func TestGenerations(t *testing.T) {
	server := s3test.Start(t)
	a, _ := replica(t, server)
	b, _ := replica(t, server)
	for i := range 5 {
		f := bindings.Fact{Repository: fmt.Sprintf("git.example/%d", i), Module: "m.example/a", How: bindings.Open}
		note(t, a, f)
		if b.Knows(a.Generation()) {
			t.Errorf("fact %d is known before Refresh", i)
		}
		// What b notes itself does not hide that it lacks others.
		note(t, b, bindings.Fact{Repository: fmt.Sprintf("git.example/b%d", i), Module: "m.example/b", How: bindings.Open})
		if b.Knows(a.Generation()) && !slices.Contains(b.At(f.Repository), f) {
			t.Errorf("fact %d is known, but it is not there", i)
		}
		refreshed(t, b, f)
		if !b.Knows(a.Generation()) {
			t.Errorf("fact %d is not known after Refresh", i)
		}
	}
}

// A fact counts as noted only when the index says so: otherwise another replica would not look for it. So one whose
// index could not be written is noted again, and a replica waits for another caller that notes the same.
func TestNotedAgain(t *testing.T) {
	server := s3test.Start(t)
	a, _ := replica(t, server)
	b, _ := replica(t, server)
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && strings.HasSuffix(r.Key, "bindings/index") {
			return s3test.Fault{Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	for range 2 {
		if err := a.Note(t.Context(), pay); err == nil {
			t.Error("Note without an index: no error")
		}
	}
	server.Fail(nil)
	note(t, a, pay)
	refreshed(t, b, pay)
}

// News that cannot be posted are posted by the next Note of the fact.
func TestToldAgain(t *testing.T) {
	server := s3test.Start(t)
	a, _ := replica(t, server)
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && strings.HasSuffix(r.Key, "s/news") {
			return s3test.Fault{Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	if err := a.Note(t.Context(), pay); err == nil {
		t.Error("Note without news: no error")
	}
	server.Fail(nil)
	note(t, a, pay)
	if n := len(server.Keys("s/news")); n != 1 {
		t.Errorf("%d states with news", n)
	}
}

// A replica whose bucket was set back still has what it knew, and stores it again with what it notes.
func TestSetBack(t *testing.T) {
	server := s3test.Start(t)
	a, _ := replica(t, server)
	note(t, a, pay)
	for _, key := range server.Keys("s/bindings") {
		server.Change(key, func([]byte) []byte { return nil })
	}
	b, _ := replica(t, server)
	other := bindings.Fact{Repository: pay.Repository, Module: "m.example/other", How: bindings.Open}
	note(t, a, other)
	refreshed(t, b, pay)
	refreshed(t, b, other)
}

// A damaged shard is not written over: it may have had facts that no replica in memory has.
func TestSharedDamage(t *testing.T) {
	server := s3test.Start(t)
	a, _ := replica(t, server)
	note(t, a, pay)
	for _, key := range server.Keys("s/bindings") {
		if !strings.HasSuffix(key, "index") {
			server.Change(key, func(value []byte) []byte { value[len(value)-2] ^= 1; return value })
		}
	}
	if err := a.Note(t.Context(), bindings.Fact{Repository: pay.Repository, Module: "m.example/x"}); !errors.Is(err, bindings.ErrLost) {
		t.Errorf("Note: %v", err)
	}
}

// To look for news of others costs one request if there are none.
func TestRefreshIsCheap(t *testing.T) {
	server := s3test.Start(t)
	a, _ := replica(t, server)
	note(t, a, pay)
	server.Fail(nil)
	if err := a.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	note(t, a, pay)
	if n := server.Requests(); n != 1 {
		t.Errorf("%d requests", n)
	}
}
