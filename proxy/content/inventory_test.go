package content_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// Purge removes the files and the kept answers of one module or version, and nothing else; also
// where the keys are too short for the module's path.
func TestPurge(t *testing.T) {
	t.Parallel()
	long := "example.com" + strings.Repeat("/Element", 120)
	for _, path := range []string{"example.com/Mod", long} {
		db, err := bolt.Open(t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		vouchers := []storage.Voucher{storage.Upstream, storage.ProvedBy("sum.example.com"), storage.PinnedIn("log.example.com")}
		for _, v := range vouchers[1:] {
			if err := storage.NoteVoucher(t.Context(), db, v); err != nil {
				t.Fatal(err)
			}
		}
		states := []string{}
		for _, m := range []module.Version{{Path: path, Version: "v1.0.0"}, {Path: path, Version: "v1.1.0"}, {Path: path + "/sub", Version: "v1.0.0"}, {Path: path + "x", Version: "v1.0.0"}} {
			for i, kind := range []request.Kind{request.Info, request.Mod, request.Zip} {
				key := vouchers[i].Key(request.Request{Kind: kind, Module: m.Path, Version: m.Version}.Path())
				if err := db.Create(t.Context(), storage.Info{Key: key, Size: 4}, strings.NewReader("text")); err != nil {
					t.Fatal(err)
				}
			}
			for _, kind := range []request.Kind{request.List, request.Latest} {
				name := storage.Key(request.Request{Kind: kind, Module: m.Path}.Path())
				states = append(states, name)
				if err := db.SetState(t.Context(), name, []byte("text")); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, step := range []struct {
			version     string
			files, left int
		}{{"v1.0.0", 3, 9}, {"v1.0.0", 0, 9}, {"", 3, 6}} {
			items, err := content.Purge(t.Context(), db, module.Version{Path: path, Version: step.version})
			if err != nil || len(items) != step.files {
				t.Errorf("Purge of %.20s@%s = %+v, %v, want %d files", path, step.version, items, err, step.files)
			}
			for _, item := range items {
				if item.Module != path || item.Size != 4 || !slices.Contains([]string{"info", "mod", "zip"}, item.File) {
					t.Errorf("purged %+v", item)
				}
			}
			left := 0
			for _, err := range content.Inventory(t.Context(), db, "") {
				if err != nil {
					t.Fatal(err)
				}
				left++
			}
			if left != step.left {
				t.Errorf("%d files are left, want %d", left, step.left)
			}
		}
		for i, name := range states {
			if _, err := db.State(t.Context(), name); (err == nil) != (i >= 4) { // those of the module itself come first
				t.Errorf("state %.40s: %v", name, err)
			}
		}
	}
}
