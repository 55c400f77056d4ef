package tiered_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
	"github.com/assay-proxy/assay/storage/tiered"
)

// What this process has put in the place of an object is on its disk, and needs no request.
func TestReplaceIsKept(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 3 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t)
			kept := local(t)
			s := open(t, tiered.Options{Local: kept, Remote: bucket(t, server)})
			create(t, s, "key", storagetest.Content(1, size))
			s.Settle(t)
			after := storagetest.Content(2, size)
			if err := s.Replace(t.Context(), storage.Info{Key: "key", Size: int64(size)}, bytes.NewReader(after)); err != nil {
				t.Fatal(err)
			}
			s.Settle(t)
			server.Fail(nil)
			expect(t, kept, "key", after)
			expect(t, s, "key", after)
			if n := server.Requests(); n > 0 {
				t.Errorf("%d requests for what was just written", n)
			}
		})
	}
}

// A batch creates an object whose key has an old local copy: another replica has deleted that object, and this one was
// not told yet. The old bytes are not served after the batch.
func TestApplyOverOldCopy(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db, kept := bucket(t, server), local(t)
	s := open(t, tiered.Options{Local: kept, Remote: bucket(t, server)})
	create(t, s, "key", storagetest.Content(1, 1000))
	s.Settle(t)
	if err := db.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	after := storagetest.Content(2, 1000)
	if err := s.Apply(t.Context(), storage.Batch{Create: []storage.Small{{Info: storage.Info{Key: "key"}, Content: after}}}); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "key", after)
	s.Settle(t)
	expect(t, s, "key", after)
	expect(t, kept, "key", after)
}
