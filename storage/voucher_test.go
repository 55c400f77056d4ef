package storage_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

func TestVoucherKeys(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 300) + ".example"
	deep := "example.com" + strings.Repeat("/abcdefghi", 60) // 611 bytes: not longer than a directory may be
	for _, tt := range []struct {
		voucher    storage.Voucher
		path, want string // want "": cut
	}{
		{storage.Upstream, "example.com/!a/@v/v1.0.0.info", "upstream/example.com/!a/@v/v1.0.0.info"},
		{storage.ProvedBy("sum.golang.org"), "example.com/a/@v/v1.0.0.zip", "proved/sum.golang.org/example.com/a/@v/v1.0.0.zip"},
		{storage.PinnedIn("sum.corp.example"), "corp.example/a/@v/v1.0.0.mod", "pinned/sum.corp.example/corp.example/a/@v/v1.0.0.mod"},
		{storage.ProvedBy("example.com/db"), "example.com/a/@v/v1.0.0.mod", "proved/example.com%2Fdb/example.com/a/@v/v1.0.0.mod"},
		{storage.ProvedBy(long), "example.com/a/@v/v1.0.0.mod", ""},
		{storage.ProvedBy("sum.golang.org"), deep + "/@v/v1.0.0.mod", ""},
		{storage.ProvedBy(long), deep + deep + "/@v/v1.0.0.mod", ""},
	} {
		key := tt.voucher.Key(tt.path)
		if err := storage.CheckKey(key); err != nil || tt.want != "" && key != tt.want {
			t.Errorf("Key(%q) = %q, %v, want %q", tt.path, key, err, tt.want)
		}
		if again := tt.voucher.Key(storage.Key(tt.path)); again != key {
			t.Errorf("of its key without a voucher: %q, want %q", again, key)
		}
		if dir, name, _ := strings.Cut(tt.path, "/@v/"); tt.voucher.Prefix(dir+"/@v")+name != key {
			t.Errorf("Prefix(%q) = %q, want the beginning of %q", dir, tt.voucher.Prefix(dir+"/@v"), key)
		}
		voucher, path, ok := storage.CutVoucher(key)
		if !ok || voucher != tt.voucher || tt.want != "" && path != tt.path {
			t.Errorf("CutVoucher(%q) = %q, %q, %v", key, voucher, path, ok)
		}
	}
	for _, key := range []string{"sumdb/sum.golang.org/lookup/example.com/a@v1.0.0", "example.com/a/@v/v1.0.0.zip", "proved.example/a/@v/v1.0.0.zip", "proved/x", "upstream"} {
		if v, path, ok := storage.CutVoucher(key); ok {
			t.Errorf("CutVoucher(%q) = %q, %q", key, v, path)
		}
	}
}

func TestNoteVoucher(t *testing.T) {
	t.Parallel()
	db, err := bolt.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if all, err := storage.Vouchers(t.Context(), db); err != nil || !slices.Equal(all, []storage.Voucher{storage.Upstream}) {
		t.Errorf("%q, %v", all, err)
	}
	database, log := storage.ProvedBy("sum.golang.org"), storage.PinnedIn("example.com/log")
	for _, v := range []storage.Voucher{database, log, database} {
		if err := storage.NoteVoucher(t.Context(), db, v); err != nil {
			t.Error(err)
		}
	}
	if all, err := storage.Vouchers(t.Context(), db); err != nil || !slices.Equal(all, []storage.Voucher{storage.Upstream, database, log}) {
		t.Errorf("%q, %v", all, err)
	}
	if !database.Database() || log.Database() || storage.Upstream.Database() {
		t.Error("only the first of them is a database")
	}
}
