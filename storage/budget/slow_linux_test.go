package budget_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// A client that reads a zip slowly that is too large to be stored does not stop others: they displace objects, one at a
// time, and only the zip of the slow client is above the limit.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 16<<20)
	w.store.Patience(0)
	for i := range 20 {
		name := fmt.Sprint("m", i)
		w.fetch(name, content(name, 700_000))
	}
	large := content("large", 20<<20)
	slow, err := w.store.Draft(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	for i := 0; i < len(large); i += 1 << 20 {
		if _, err := slow.Write(large[i:min(len(large), i+1<<20)]); err != nil {
			t.Fatal(err)
		}
	}
	err = slow.Commit(t.Context(), storage.Info{Key: zipKey("large"), Size: int64(len(large)), Proof: "sum.example"})
	if !errors.Is(err, storage.ErrNotKept) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for i := range 3 {
		name := fmt.Sprint("other", i)
		data := content(name, 3<<20)
		d, err := w.store.Draft(ctx, -1)
		if err != nil {
			t.Fatal(err)
		}
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 128<<10)
			if _, err := d.Write(rest[:n]); err != nil {
				t.Fatalf("%s, after %d bytes: %v", name, len(data)-len(rest), err)
			}
			rest = rest[n:]
		}
		if err := d.Commit(ctx, storage.Info{Key: zipKey(name), Size: int64(len(data)), Proof: "sum.example"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, most := w.du(), w.limit+int64(len(large))+1<<20; got > most {
			t.Errorf("%d bytes on disk, want at most %d", got, most)
		}
		_ = d.Close()
	}
}
