package bindings_test

import (
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/news"
)

func open(t *testing.T, dir string) (*bolt.DB, *bindings.Table) {
	t.Helper()
	store, err := bolt.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	table, err := bindings.Load(t.Context(), store, news.Alone())
	if err != nil {
		t.Fatal(err)
	}
	return store, table
}

var pay = bindings.Fact{Repository: "git.corp.example/pay", Module: "go.corp.example/pay", How: bindings.Credential}

func facts(all ...bindings.Fact) iter.Seq2[bindings.Fact, error] {
	return func(yield func(bindings.Fact, error) bool) {
		for _, f := range all {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// Noted facts are there after a restart, and a weaker fact does not replace a stronger
// one.
func TestNote(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, table := open(t, dir)
	old := bindings.Fact{Repository: "git.corp.example/old", Module: "old.example/x y\n\t\"", Public: true}
	for _, f := range []bindings.Fact{pay, {Repository: pay.Repository, Module: pay.Module, How: bindings.Open}, {Repository: pay.Repository, Module: "x.example/d", How: bindings.Declared}} {
		if err := table.Note(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Learn(t.Context(), facts(old, bindings.Fact{Repository: pay.Repository, Module: pay.Module}), 7); err != nil {
		t.Fatal(err)
	}
	check := func(table *bindings.Table) {
		t.Helper()
		if got := table.Private(pay.Module); !slices.Equal(got, []bindings.Fact{pay}) {
			t.Errorf("Of = %v", got)
		}
		if got := table.At(pay.Repository); len(got) != 2 {
			t.Errorf("At = %v", got)
		}
		if got := table.Public(old.Module); !slices.Equal(got, []bindings.Fact{old}) || len(table.Private(old.Module)) > 0 {
			t.Errorf("Of = %v", got)
		}
		if len(table.Private("x.example/d")) > 0 {
			t.Error("a repository speaks for a module that it only declares")
		}
		if table.Log() != 7 {
			t.Errorf("Log = %d", table.Log())
		}
	}
	check(table)
	store.Close()
	_, table = open(t, dir)
	check(table)
	opened := bindings.Fact{Repository: old.Repository, Module: old.Module, Public: true, How: bindings.Open}
	if err := table.Note(t.Context(), opened); err != nil || !slices.Equal(table.Public(old.Module), []bindings.Fact{opened}) {
		t.Errorf("after it was read without a credential: %v, %v", table.Public(old.Module), err)
	}
}

// Anyone with write access to a repository chooses what its go.mod files declare, but not
// how much of it is kept.
func TestDeclaredIsBounded(t *testing.T) {
	t.Parallel()
	_, table := open(t, t.TempDir())
	for i := range 150 {
		if err := table.Note(t.Context(), bindings.Fact{Repository: "a.example/x", Module: fmt.Sprintf("m.example/%d", i), How: bindings.Declared}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(table.At("a.example/x")); n != 100 {
		t.Errorf("%d declared paths are kept", n)
	}
	// Many modules in a repository leave room for what its files declare.
	for i := range 120 {
		if err := table.Note(t.Context(), bindings.Fact{Repository: "a.example/y", Module: fmt.Sprintf("a.example/y/%d", i), How: bindings.Open}); err != nil {
			t.Fatal(err)
		}
	}
	declared := bindings.Fact{Repository: "a.example/y", Module: "m.example/y", How: bindings.Declared}
	if err := table.Note(t.Context(), declared); err != nil || !slices.Contains(table.At("a.example/y"), declared) {
		t.Errorf("in a repository with 120 modules a declared path is not kept: %v", err)
	}
}

// many yields n facts about a repository, with as many paths of size bytes below prefix.
func many(repository, prefix string, n, size int) iter.Seq2[bindings.Fact, error] {
	return func(yield func(bindings.Fact, error) bool) {
		for i := range n {
			path := fmt.Sprintf("%s/%05d", prefix, i)
			path += strings.Repeat("x", max(0, size-len(path)))
			if !yield(bindings.Fact{Repository: repository, Module: path, How: bindings.Open}, nil) {
				return
			}
		}
	}
}

// The owner of a page chooses how many paths lead to a repository, but not how many are
// noted, neither of one host nor in all. Other repositories, known paths and public paths
// are not affected, and the limit is reported once.
func TestPathsAreBounded(t *testing.T) {
	t.Parallel()
	_, table := open(t, t.TempDir())
	note := func(repository, module string) error {
		return table.Note(t.Context(), bindings.Fact{Repository: repository, Module: module, How: bindings.Open})
	}
	for i := range 4 {
		if err := table.Learn(t.Context(), many("git.example/a/x", fmt.Sprintf("p%d.example", i), 1023, 0), 1); err != nil {
			t.Fatal(err)
		}
		if err := note("git.example/a/x", fmt.Sprintf("p%d.example/last", i)); err != nil {
			t.Errorf("path 1024 of a host: %v", err)
		}
		var full *bindings.LimitError
		if err := note("git.example/a/x", fmt.Sprintf("p%d.example/more", i)); !errors.As(err, &full) || full.First != (i == 0) {
			t.Errorf("path 1025 of host %d: %+v", i, err)
		}
	}
	var full *bindings.LimitError
	if err := note("git.example/a/x", "other.example/x"); !errors.As(err, &full) || full.Of != "git.example/a/x" || len(table.Private("other.example/x")) > 0 {
		t.Errorf("path 4097: %v", err)
	}
	for what, f := range map[string]bindings.Fact{
		"a path that is known":   {Repository: "git.example/a/x", Module: "p0.example/last", How: bindings.Credential},
		"another repository":     {Repository: "git.example/a/y", Module: "p0.example/more", How: bindings.Open},
		"a public path":          {Repository: "git.example/a/x", Module: "p0.example/public", How: bindings.Open, Public: true},
		"what a go.mod declares": {Repository: "git.example/a/x", Module: "p0.example/declared", How: bindings.Declared},
	} {
		if err := table.Note(t.Context(), f); err != nil || !slices.Contains(table.At(f.Repository), f) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, f := range []bindings.Fact{{Module: strings.Repeat("x", 301)}, {Repository: strings.Repeat("x", 301)}, {Module: strings.Repeat("x", 301), How: bindings.Declared}} {
		if err := table.Note(t.Context(), f); !errors.As(err, &full) {
			t.Errorf("a name of 301 bytes: %v", err)
		}
	}
}

// One owner on a code host, with any number of repositories, cannot fill the state that
// it shares with other owners.
func TestRecordIsShared(t *testing.T) {
	t.Parallel()
	store, table := open(t, t.TempDir())
	var refused error
	var repository string
	for i, filled := 0, 0; refused == nil && filled < 20; i++ {
		repository = fmt.Sprintf("git.example/a/%d", i)
		h := fnv.New32a()
		_, _ = h.Write([]byte(repository))
		if h.Sum32()%64 != 0 { // it is in another state
			continue
		}
		filled++
		if err := table.Learn(t.Context(), many(repository, repository, 1000, 300), 1); err != nil {
			t.Fatal(err)
		}
		refused = table.Note(t.Context(), bindings.Fact{Repository: repository, Module: repository + "/more", How: bindings.Open})
	}
	var full *bindings.LimitError
	if !errors.As(refused, &full) || full.Of != "git.example/a" {
		t.Fatalf("Note = %v", refused)
	}
	if value, err := store.State(t.Context(), "bindings/00"); err != nil || len(value) > 2<<20 {
		t.Errorf("the state has %d bytes, %v", len(value), err)
	}
	for _, module := range []string{"page.example/x", "git.example/b/x"} {
		if err := table.Note(t.Context(), bindings.Fact{Repository: repository, Module: module, How: bindings.Open}); err != nil {
			t.Errorf("%s: %v", module, err)
		}
	}
}

// A table with a missing, damaged or strange part is not used.
func TestLost(t *testing.T) {
	t.Parallel()
	names := []string{"bindings/index"}
	for i := range 64 {
		names = append(names, fmt.Sprintf("bindings/%02x", i))
	}
	for how, change := range map[string]func(store *bolt.DB, name string, value []byte) error{
		"missing": func(store *bolt.DB, name string, _ []byte) error { return store.DeleteState(t.Context(), name) },
		"shortened": func(store *bolt.DB, name string, v []byte) error {
			return store.SetState(t.Context(), name, v[:len(v)/2])
		},
		"emptied": func(store *bolt.DB, name string, _ []byte) error { return store.SetState(t.Context(), name, nil) },
		"changed": func(store *bolt.DB, name string, v []byte) error {
			return store.SetState(t.Context(), name, []byte(strings.Replace(string(v), "credential", "creditable", 1)+"x"))
		},
	} {
		store, table := open(t, t.TempDir())
		if err := table.Note(t.Context(), pay); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			value, err := store.State(t.Context(), name)
			if err != nil {
				continue
			}
			if how == "missing" && name == names[0] {
				continue // all shards are there; the log is read again
			}
			if err := change(store, name, value); err != nil {
				t.Fatal(err)
			}
			if _, err := bindings.Load(t.Context(), store, news.Alone()); !errors.Is(err, bindings.ErrLost) || !strings.Contains(err.Error(), "backup") {
				t.Errorf("%s %s: %v", name, how, err)
			}
			if err := store.SetState(t.Context(), name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A fact that cannot be made durable is not noted.
func TestNoteFails(t *testing.T) {
	t.Parallel()
	store, table := open(t, t.TempDir())
	store.Close()
	if err := table.Note(t.Context(), pay); err == nil || len(table.At(pay.Repository)) > 0 {
		t.Errorf("Note on a closed store: %v, %v", err, table.At(pay.Repository))
	}
}
