package pinlog_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// logValues returns what the bucket has of the log, and of the contents and states of the store.
func (f *fleet) logValues() map[string][]byte {
	values := map[string][]byte{}
	for _, prefix := range []string{"store/o/log/", "store/c/", "store/s/"} {
		for _, key := range f.server.Keys(prefix) {
			f.server.Change(key, func(b []byte) []byte { values[key] = bytes.Clone(b); return b })
		}
	}
	return values
}

// Collections delete nothing of a log: no batch, no segment, whose content is a large one, no guard, and no alarm. What
// nothing refers to they do delete, and a new replica reads all of the log afterwards.
func TestCollectLeavesTheLog(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.begin("a")
	const pins = 260 // more than the batches of a segment
	for n := range int64(pins) {
		e := entry(n)
		e.Origin += strings.Repeat("1f3870be", 150)
		pinOne(t, a, e)
	}
	f.see(a)
	before := f.logValues()
	large := slices.Collect(maps.Keys(before))
	large = slices.DeleteFunc(large, func(key string) bool { return !strings.HasPrefix(key, "store/c/") })
	if segments := f.server.Keys("store/o/log/sum.corp.example%2Flog/segments/"); len(segments) != 1 || len(large) != 1 {
		t.Fatalf("segments %q with the contents %q, want one with one", segments, large)
	}
	db := f.store().(*s3.DB)
	const garbage = 300 << 10
	if err := db.Create(t.Context(), storage.Info{Key: "mod/garbage", Size: garbage}, bytes.NewReader(make([]byte, garbage))); err != nil {
		t.Fatal(err)
	}
	if err := db.Delete(t.Context(), "mod/garbage"); err != nil {
		t.Fatal(err)
	}
	var deleted int64
	for range 5 {
		done, err := db.Collect(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		deleted += done.Deleted
	}
	if after := f.logValues(); !maps.EqualFunc(before, after, bytes.Equal) || deleted != 1 {
		t.Errorf("%d values before five collections and %d after them, which deleted %d contents; want the same, and one", len(before), len(after), deleted)
	}
	const batches = "store/o/log/sum.corp.example%2Flog/batches/"
	f.server.Fail(func(r s3test.Request) s3test.Fault { // the segment is what is read
		early := r.Key > batches+"000000000000" && r.Key < batches+"000000000250"
		return s3test.Fault{Hidden: r.Op == "GET" && early}
	})
	b := openLog(t, f.trusting("b"))
	f.check(b)
	f.server.Fail(nil)
	if err := b.Check(t.Context()); err != nil || b.Size() != pins {
		t.Errorf("Check of a new replica with %d entries: %v", b.Size(), err)
	}
	pinOne(t, b, entry(pins))
}

// The secret key is never in the bucket, in no form that it has: neither in a key nor in a value, after a log has begun,
// after pins, a restart, an alarm and a check.
func TestKeyIsNotInBucket(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	text, err := os.ReadFile(f.key)
	if err != nil {
		t.Fatal(err)
	}
	// PRIVATE+KEY+NAME+HASH+KEY, of which KEY is an algorithm and a seed in base64.
	fields := strings.SplitN(strings.TrimSpace(string(text)), "+", 5)
	if len(fields) != 5 {
		t.Fatal("the key has another form")
	}
	encoded := fields[4]
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 33 {
		t.Fatalf("the key has %d bytes, %v", len(raw), err)
	}
	seed := raw[1:]
	forms := map[string][]byte{
		"text": []byte(encoded), "bytes": seed, "hex": []byte(hex.EncodeToString(seed)), "mark": []byte("PRIVATE+KEY"),
		"base64": []byte(base64.RawStdEncoding.EncodeToString(seed)), "URL": []byte(base64.RawURLEncoding.EncodeToString(seed)),
	}
	searched := 0
	search := func(when string) {
		t.Helper()
		for _, key := range f.server.Keys("") {
			f.server.Change(key, func(value []byte) []byte {
				searched++
				for form, secret := range forms {
					if strings.Contains(key, string(secret)) || bytes.Contains(value, secret) {
						t.Errorf("%s: %s has the secret key as %s", when, key, form)
					}
				}
				return value
			})
		}
	}
	f.create()
	search("after the beginning")
	setBack := f.snapshot()
	a, err := pinlog.Open(t.Context(), f.trusting("a"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(3) {
		pinOne(t, a, entry(n))
	}
	search("after pins")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openLog(t, f.config("a"))
	pinOne(t, a, entry(3))
	if err := a.Check(t.Context()); err != nil {
		t.Error(err)
	}
	search("after a restart")
	setBack()
	_ = a.Refresh(t.Context()) // its error is that the log refuses
	if a.Refuses() == nil {
		t.Error("a log that was set back signs")
	}
	search("after an alarm")
	if searched < 12 {
		t.Errorf("only %d values were searched", searched)
	}
}
