package content_test

import (
	"fmt"
	"io/fs"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
)

// A fill that could not be stored pauses predictions for 30 seconds, and each further one prolongs the pause.
func TestPause(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	p := content.NewPause(true)
	begins := p.Begins()
	want := func(lasts bool) {
		t.Helper()
		if p.Lasts(now) != lasts {
			t.Errorf("it lasts: %v, want %v", !lasts, lasts)
		}
	}
	full := fmt.Errorf("write: %w: %w", storage.ErrUnwritable, syscall.ENOSPC)
	for _, err := range []error{nil, fs.ErrNotExist, syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} { // of another disk
		if p.Note(err, now) {
			t.Errorf("%v begins a pause", err)
		}
	}
	want(false)
	if !p.Note(full, now) {
		t.Error("a full disk begins none")
	}
	<-begins
	now = now.Add(29 * time.Second)
	want(true)
	if p.Note(full, now) {
		t.Error("another one begins")
	}
	now = now.Add(29 * time.Second)
	want(true)
	now = now.Add(time.Second)
	want(false)
	for _, err := range []error{storage.ErrReadOnly, storage.ErrUnwritable} {
		if !p.Note(err, now) {
			t.Errorf("%v begins none", err)
		}
		now = now.Add(time.Minute)
	}
	large := fmt.Errorf("write: %w: %w", storage.ErrNoLarge, syscall.ENOSPC)
	if p.Note(large, now.Add(time.Minute)) {
		t.Error("nothing is predicted because large objects have no room")
	}
	for _, err := range []error{full, large, storage.ErrReadOnly} {
		if !content.NewZipPause().Note(err, now) {
			t.Errorf("%v begins no pause of zips", err)
		}
	}
	if content.NewZipPause().Note(syscall.ENOSPC, now) {
		t.Error("the full disk of a scratch file begins a pause of zips")
	}
	if content.NewPause(false).Note(full, now) {
		t.Error("a pause begins, and nothing is predicted")
	}
}
