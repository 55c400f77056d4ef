package content_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// A server finishes the purge of a process that was killed, once. What was stored again since stays.
func TestFinishPurges(t *testing.T) {
	server := s3test.Start(t)
	r := newReplica(t, server, proxytest.New(t), "off")
	ctx, epoch := t.Context(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	mod := module.Version{Path: "example.com/m", Version: "v1.0.0"}
	var items []content.Item
	put := func(key, text string, years int) {
		t.Helper()
		old := storage.Info{Key: key, Size: int64(len(text)), Time: epoch.AddDate(years, 0, 0)}
		if err := r.store.Create(ctx, old, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "b"} {
		put(key, "old", 0)
		items = append(items, content.Item{Key: key, Stored: epoch})
	}
	for _, damage := range []func([]byte) []byte{nil, func([]byte) []byte { return []byte("damaged") }} {
		if damage != nil {
			server.Change("s/purging", damage)
			if err := content.FinishPurges(ctx, r.store, r.board); err != nil {
				t.Errorf("a damaged state: %v", err)
			}
		}
		if _, err := content.BeginPurge(ctx, r.store, r.board, mod, items); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.store.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	put("a", "new", 1)
	for range 2 {
		if err := content.FinishPurges(ctx, r.store, r.board); err != nil {
			t.Fatal(err)
		}
		if _, err := r.store.Stat(ctx, "a"); err != nil {
			t.Errorf("what was stored again: %v", err)
		}
		if _, err := r.store.Stat(ctx, "b"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what was not removed yet: %v, want none", err)
		}
		if state, err := r.store.State(ctx, "purging"); err != nil || string(state) != "[]" {
			t.Errorf("purges under way: %s, %v", state, err)
		}
	}
}

// A purge of which other servers cannot be told does not begin.
func TestPurgeDoesNotBegin(t *testing.T) {
	server := s3test.Start(t)
	r := newReplica(t, server, proxytest.New(t), "off")
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && strings.HasSuffix(r.Key, "s/news") {
			return s3test.Fault{Before: 403, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	if _, err := content.BeginPurge(t.Context(), r.store, r.board, module.Version{Path: "example.com/m"}, []content.Item{{Key: "a"}}); err == nil {
		t.Error("no error")
	}
	server.Fail(nil)
	if state, err := r.store.State(t.Context(), "purging"); err != nil || string(state) != "[]" {
		t.Errorf("purges under way: %s, %v", state, err)
	}
}
