package predict_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/request"
)

// zips requests what go mod download does until its first zip, and returns the fetches of the zips that follow.
func (b *build) zips() (all []*predict.Fetch) {
	b.t.Helper()
	for _, kind := range []string{"mod", "info"} {
		for i := range 9 {
			b.get(fmt.Sprintf("m.example/%d/@v/v1.0.0.%s", i, kind))
		}
	}
	for i, path := range b.get("m.example/0/@v/v1.0.0.zip") {
		if want := fmt.Sprintf("m.example/%d/@v/v1.0.0.zip", i+1); path != want {
			b.t.Fatalf("predicted %s, want %s", path, want)
		}
		all = append(all, b.p.Begin(b.name, parse(b.t, path)))
	}
	if len(all) != 4 {
		b.t.Fatalf("%d zips are predicted", len(all))
	}
	return all
}

func (b *build) wantUnused(n int64) {
	b.t.Helper()
	if got := b.p.Unused(); got != n {
		b.t.Errorf("%d bytes are unused, want %d", got, n)
	}
	if err := b.p.Consistent(); err != nil {
		b.t.Error(err)
	}
}

// Files that are arriving have together no more bytes than their client may have, and leave bytes to others.
func TestTake(t *testing.T) {
	t.Parallel()
	const third = predict.MaxZip / 3
	b := newBuild(t)
	zips := b.zips()
	want := func(zip *predict.Fetch, n int64, may bool) {
		t.Helper()
		if zip.Take(n) != may {
			t.Errorf("Take(%d) = %v", n, !may)
		}
	}
	for _, zip := range zips[:3] {
		want(zip, third, true)
	}
	want(zips[3], third, false)
	b.wantUnused(3 * third)
	zips[0].NotFetched(predict.Failed)
	b.wantUnused(2 * third)
	for range third / 1000 { // it does not say how large it is
		want(zips[3], 1000, true)
	}
	want(zips[3], 1<<20, false)
	zips[3].NotFetched(predict.Failed)
	zips[1].Fetched(third)
	b.wantUnused(2 * third)
	b.get("m.example/2/@v/v1.0.0.zip")
	b.wantUnused(third)
	b.get("m.example/3/@v/v1.0.0.zip") // which is still arriving
	b.wantUnused(0)
	want(zips[2], 10*predict.MaxZip, true) // it is the client's
	b.wantUnused(0)
	zips[2].Fetched(11 * predict.MaxZip)
	b.wantUnused(0)
	if of := b.p.Stats(b.now)[request.Zip]; of.Used != 2 || of.Wasted != 0 {
		t.Errorf("%+v", of)
	}
}

// A file that another client has requested while it arrived counts for no client that has not.
func TestTakeOfOthers(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	zip := b.zips()[0]
	if zip.Take(10 * predict.MaxZip) {
		t.Error("it may have so much")
	}
	zip.Fetched(10 * predict.MaxZip)
	b.wantUnused(0)
	if of := b.p.Stats(b.now)[request.Zip]; of.Predicted != 0 {
		t.Errorf("%+v", of)
	}
}

// Clients that begin to fetch as much as they may, in small pieces, and leave, take all bytes of no other: what
// still arrives for them counts until it ends, and no longer.
func TestTakeCrowd(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	var all []*predict.Fetch
	for i := range 300 {
		b.name = fmt.Sprintf("2001:db8:%x::/48", i)
		for _, zip := range b.zips() {
			for zip.Take(64 << 10) {
			}
			all = append(all, zip)
		}
		if n := b.p.Unused(); n > 256<<20 {
			t.Fatalf("%d bytes are unused", n)
		}
		if i == 20 {
			b.name = "192.0.2.1"
			zip := b.zips()[0]
			if !zip.Take(100 << 10) {
				t.Error("a client beside 20 others may have nothing")
			}
			zip.NotFetched(predict.NotNow)
		}
	}
	before := b.p.Unused()
	b.now = b.now.Add(time.Minute)
	b.get("m.example/@latest")
	if b.p.Clients() != 1 || b.p.Unused() != before {
		t.Errorf("%d clients, and %d bytes of %d are unused", b.p.Clients(), b.p.Unused(), before)
	}
	for i, zip := range all {
		if i%2 == 0 {
			zip.Fetched(0)
		} else {
			zip.NotFetched(predict.NotNow)
		}
	}
	b.wantUnused(0)
}

// A site beside many that take as much as they may, and leave, gets its go.mod files as without these, and
// waits for room for its zips only.
func TestTakeBesideGreedy(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	for i := range 45 {
		b.name = fmt.Sprintf("2001:db8:%x::/48", i)
		for _, zip := range b.zips() {
			for zip.Take(1 << 10) {
			}
		}
	}
	b.name = "192.0.2.1"
	mods := b.mod("m.example/a", "v1.0.0", requiring(0, 10, ""))
	if len(mods) != 10 {
		t.Errorf("%d go.mod files are predicted", len(mods))
	}
	for _, path := range mods {
		mod := b.p.Begin(b.name, parse(t, path))
		if !mod.Take(4 << 10) {
			t.Fatalf("%s of 4 KiB is refused", path)
		}
		mod.Fetched(4 << 10)
		b.get(path)
	}
	if of := b.p.Stats(b.now)[request.Mod]; of.Used != 10 {
		t.Errorf("%+v", of)
	}
	large := b.p.Begin(b.name, parse(t, b.mod("m.example/b", "v1.0.0", requiring(10, 1, ""))[0]))
	if large.Take(predict.MaxMod + 1<<20) {
		t.Error("a large file is not refused")
	}
	large.NotFetched(predict.NotNow)
}

// A zip that is refused because too little is left is predicted again when there is room for it, and costs no
// credit.
func TestTakeRefused(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	b.name = "2001:db8::/48"
	var theirs []*predict.Fetch
	for _, zip := range b.zips() {
		for zip.Take(predict.MaxZip / 8) {
		}
		theirs = append(theirs, zip)
	}
	b.name = "192.0.2.1"
	zips := b.zips()
	if zips[0].Take(predict.MaxZip) {
		t.Fatal("it may have so much")
	}
	zips[0].NotFetched(predict.Failed)
	for _, zip := range zips[1:] {
		zip.NotFetched(predict.Held)
	}
	const first = "m.example/1/@v/v1.0.0.zip"
	if next := b.get("m.example/2/@v/v1.0.0.zip"); len(next) != 4 || slices.Contains(next, first) {
		t.Errorf("%q are predicted, want four others: there is no room for the first one", next)
	}
	for _, zip := range theirs {
		zip.NotFetched(predict.NotNow)
	}
	next := b.get("m.example/3/@v/v1.0.0.zip")
	if !slices.Equal(next, []string{first}) {
		t.Fatalf("%q are predicted, want the one that was refused", next)
	}
	if !b.p.Begin(b.name, parse(t, first)).Take(predict.MaxZip) {
		t.Error("there is no room")
	}
}

// A zip that is larger than what any client may have is not predicted again, and costs credit.
func TestTakeTooLarge(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	for _, zip := range b.zips() {
		if zip.Take(predict.MaxZip + 1) {
			t.Error("it may have so much")
		}
		zip.NotFetched(predict.Failed)
	}
	if next := b.get("m.example/1/@v/v1.0.0.zip"); len(next) != 0 {
		t.Errorf("%q are predicted", next)
	}
}

// Of a client that is forgotten only what still arrives is kept, and its files are fetched no more.
func TestFetchOfForgotten(t *testing.T) {
	t.Parallel()
	b := newBuild(t)
	zips := b.zips()
	path := "m.example/1/@v/v1.0.0.zip"
	if !zips[0].Take(1000) || !zips[1].Take(1000) || zips[0].Remembered() == 0 {
		t.Fatal("nothing arrives")
	}
	b.get("m.example/2/@v/v1.0.0.zip") // the second one
	b.p.Stats(b.now.Add(time.Hour))
	if n := zips[0].Remembered(); n != 0 || b.p.Entries() != 0 {
		t.Errorf("%d files and modules of a client that is forgotten are kept, %d are counted", n, b.p.Entries())
	}
	if b.p.Begin(b.name, parse(t, path)) != nil {
		t.Error("a file is fetched for a client that is forgotten")
	}
	if err := b.p.Consistent(zips...); err != nil || b.p.Unused() != 1000 {
		t.Errorf("%d bytes are unused: %v", b.p.Unused(), err)
	}
	if !zips[1].Take(10 * predict.MaxZip) {
		t.Error("what the client has requested is refused")
	}
	for _, zip := range zips {
		zip.Fetched(1000)
	}
	b.wantUnused(0)
}
