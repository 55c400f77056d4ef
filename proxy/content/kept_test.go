package content_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// Only a zip that a checksum database proves may be evicted, unless an operator keeps its version or all versions
// of its module, or it came from its repository.
func TestKeeper(t *testing.T) {
	t.Parallel()
	db, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := t.Context()
	keeper, err := content.NewKeeper(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	proved := storage.ProvedBy("sum.example").Key
	reasons := func(want map[string]string) {
		t.Helper()
		for key, want := range want {
			got, err := keeper.Reason(ctx, storage.Info{Key: key})
			if err != nil || got != want {
				t.Errorf("%s is kept for %q, %v, want %q", key, got, err, want)
			}
		}
	}
	long := "example.com/" + strings.Repeat("abcdefghi/", 90) + "x/@v/v1.0.0.zip"
	reasons(map[string]string{
		proved("example.com/a/@v/v1.0.0.zip"):                               "",
		proved("example.com/!a/@v/v1.0.0.zip"):                              "",
		proved("example.com/a/@v/v1.0.0.mod"):                               "go.mod and .info files",
		"upstream/example.com/a/@v/v1.0.0.info":                             "go.mod and .info files",
		"upstream/example.com/a/@v/v1.0.0.zip":                              "zips that no checksum database proves",
		storage.PinnedIn("own.example").Key("corp.example/a/@v/v1.0.0.zip"): "private versions",
		storage.PinnedIn("own.example").Key("corp.example/a/@v/v1.0.0.mod"): "private versions",
		"sumdb/sum.example/tile/8/0/000":                                    "records and tiles",
		proved(long):                                                        "versions with long names",
	})

	add := func(path, version string) {
		t.Helper()
		for range 2 { // the second order changes nothing
			if err := content.AddKeep(ctx, db, module.Version{Path: path, Version: version}, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("example.com/a", "v1.0.0")
	add("example.com/B", "")
	if all, err := content.Keeps(ctx, db); err != nil || len(all) != 2 {
		t.Errorf("%v, %v, want two orders", all, err)
	}
	const kept = "versions that assay pin keeps"
	if changed, err := keeper.Load(ctx); err != nil || !changed {
		t.Fatalf("the orders are changed: %t, %v", changed, err)
	}
	reasons(map[string]string{
		proved("example.com/a/@v/v1.0.0.zip"): kept, proved("example.com/a/@v/v1.0.1.zip"): "", proved("example.com/a/b/@v/v1.0.0.zip"): "",
		proved("example.com/!b/@v/v1.0.0.zip"): kept, proved("example.com/!b/@v/v7.0.0+incompatible.zip"): kept, proved("example.com/b/@v/v1.0.0.zip"): "",
	})
	if err := content.RemoveKeep(ctx, db, module.Version{Path: "example.com/B", Version: "v1.0.0"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an order that is not there is removed: %v", err)
	}
	if err := content.RemoveKeep(ctx, db, module.Version{Path: "example.com/B"}); err != nil {
		t.Error(err)
	}
	if changed, err := keeper.Load(ctx); err != nil || !changed {
		t.Fatalf("the orders are changed: %t, %v", changed, err)
	}
	reasons(map[string]string{proved("example.com/!b/@v/v1.0.0.zip"): "", proved("example.com/a/@v/v1.0.0.zip"): kept})
	if changed, err := keeper.Load(ctx); err != nil || changed {
		t.Errorf("the same orders are changed: %t, %v", changed, err)
	}
	// Of copies of a bucket only orders keep some, and then all files of a version.
	for key, want := range map[string]string{
		proved("example.com/a/@v/v1.0.0.zip"): kept, proved("example.com/a/@v/v1.0.0.mod"): kept, "upstream/example.com/a/@v/v1.0.0.info": kept,
		proved("example.com/a/@v/v1.0.1.zip"): "", storage.PinnedIn("own.example").Key("corp.example/a/@v/v1.0.0.zip"): "",
		"sumdb/sum.example/tile/8/0/000": "", proved(long): "",
	} {
		if got, err := keeper.Ordered(ctx, storage.Info{Key: key}); err != nil || got != want {
			t.Errorf("the copy of %s is kept for %q, %v, want %q", key, got, err, want)
		}
	}
	for _, bad := range []module.Version{{Path: "list"}, {Path: "example.com/a", Version: "latest"}, {Path: "example.com/a\nb"}, {}} {
		if err := content.AddKeep(ctx, db, bad, time.Now()); err == nil {
			t.Errorf("%v is kept", bad)
		}
	}

	of := module.Version{Path: "example.com/Direct", Version: "v1.0.0"}
	if err := content.NoteDirect(ctx, db, of); err != nil {
		t.Fatal(err)
	}
	direct := proved("example.com/!direct/@v/v1.0.0.zip")
	reasons(map[string]string{direct: "versions from their repositories", proved("example.com/direct/@v/v1.0.0.zip"): ""})
	// A purge ends that: what comes next may come from an upstream.
	if err := db.Create(ctx, storage.Info{Key: direct, Size: 1, Proof: "sum.example"}, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := storage.NoteVoucher(ctx, db, storage.ProvedBy("sum.example")); err != nil {
		t.Fatal(err)
	}
	if purged, err := content.Purge(ctx, db, of); err != nil || len(purged) != 1 {
		t.Errorf("%v, %v", purged, err)
	}
	reasons(map[string]string{direct: ""})
}

// The orders are limited, so that the state cannot grow beyond what a store takes.
func TestManyKeeps(t *testing.T) {
	t.Parallel()
	db, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var state strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&state, `{"module":"example.com/m%d"}`+"\n", i)
	}
	if err := db.SetState(t.Context(), "kept", []byte(state.String())); err != nil {
		t.Fatal(err)
	}
	err = content.AddKeep(t.Context(), db, module.Version{Path: "example.com/more"}, time.Now())
	if err == nil || !strings.Contains(err.Error(), "remove some") {
		t.Errorf("one order too many: %v", err)
	}
}
