package s3_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// lies are two ways in which a server treats conditions, and one in which it refuses requests that have any.
var lies = map[string]func(s3test.Request) s3test.Fault{
	"ignores": func(s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: true} },
	"inverts": func(s3test.Request) s3test.Fault { return s3test.Fault{Inverted: true} },
	"refuses": func(r s3test.Request) s3test.Fault {
		if r.Conditional {
			return s3test.Fault{Before: 501, Code: "NotImplemented"}
		}
		return s3test.Fault{}
	},
}

// The whole contract holds on a server that does not keep conditions, for the one process that uses it. It sends none, so
// it does not matter what the server would do with them.
func TestAlone(t *testing.T) {
	t.Parallel()
	storagetest.Brief(t, func(t *testing.T) storage.Store {
		server := s3test.Start(t)
		server.Fail(func(r s3test.Request) s3test.Fault {
			if r.Conditional {
				t.Errorf("%s of %s with a condition", r.Op, r.Key)
			}
			return s3test.Fault{Unconditional: true}
		})
		o := options(server)
		o.Spool = t.TempDir()
		db := open(t, o)
		db.Alone()
		return db
	})
}

// Without Alone, creators of one key on a server that ignores conditions all succeed: so TestAlone proves something.
func TestNotAlone(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		server := s3test.Start(t)
		server.Fail(lies["ignores"])
		db := open(t, options(server))
		if alone {
			db.Alone()
		}
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				content := fmt.Sprintf("content %d", i)
				err := db.Apply(t.Context(), storage.Batch{Create: []storage.Small{{Info: storage.Info{Key: "key"}, Content: []byte(content)}}})
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := won.Load(); alone && n != 1 || !alone && n < 2 {
			t.Errorf("alone %v: %d creators succeeded", alone, n)
		}
	}
}

// The report tells what one replica can work with from what none can.
func TestProbeTellsConditions(t *testing.T) {
	t.Parallel()
	for name, lie := range lies {
		report, err := probe(t, s3test.Start(t), lie)
		if err != nil || len(report.Broken) > 0 || len(report.Unconditional) == 0 {
			t.Errorf("%s: %+v, %v, want only broken conditions", name, report, err)
		}
	}
	report, err := probe(t, s3test.Start(t), func(r s3test.Request) s3test.Fault { return s3test.Fault{Hidden: r.Op == "LIST"} })
	if err != nil || len(report.Broken) == 0 {
		t.Errorf("late lists: %+v, %v, want a store that cannot be used", report, err)
	}
}

// A store has one ID, also if two replicas make it at once, and another one has another.
func TestIdentity(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	o := options(server)
	if _, err := open(t, o).Identity(t.Context(), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no store: %v, want fs.ErrNotExist", err)
	}
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var err error
			if ids[i], err = open(t, o).Identity(t.Context(), true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("IDs %q, want one", ids)
		}
	}
	o.Prefix = "other"
	if id, err := open(t, o).Identity(t.Context(), true); err != nil || id == ids[0] {
		t.Errorf("another store: %q, %v", id, err)
	}
	for value, want := range map[string]error{"assay store 2 x": storage.ErrNewer, "something": storage.ErrForeign} {
		db := open(t, o)
		if err := db.SetState(t.Context(), "store", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Identity(t.Context(), true); !errors.Is(err, want) || !strings.Contains(err.Error(), "s3://bucket/other") {
			t.Errorf("%q: %v, want %v and the place", value, err, want)
		}
	}
}

// A store that is not the one any more with which a server began is neither read nor written, until it is there again.
func TestConfirm(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	id, err := db.Identity(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	put := func(value []byte) { server.Change("store/s/store", func([]byte) []byte { return value }) }
	var own, other []byte
	server.Change("store/s/store", func(b []byte) []byte { own = b; return nil })
	if _, err := open(t, options(server)).Identity(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	server.Change("store/s/store", func(b []byte) []byte { other = b; return b })
	draft, err := db.Draft(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Close()
	if _, err := draft.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	exchanged := func() float64 { return testutil.ToFloat64(db.Metrics()[3]) }
	for name, value := range map[string][]byte{"emptied": nil, "exchanged": other, "damaged": []byte("x"), "again": other} {
		put(own)
		if err := db.Confirm(t.Context(), id); err != nil {
			t.Fatalf("%s: Confirm of the right store: %v", name, err)
		}
		if n := exchanged(); n != 0 {
			t.Errorf("%s: assay_bucket_exchanged is %v with the right store", name, n)
		}
		if err := db.SetState(t.Context(), "a", []byte(name)); err != nil {
			t.Errorf("%s: after the right store is back: %v", name, err)
		}
		server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Before: 403, Code: "AccessDenied"} })
		if err := db.Confirm(t.Context(), id); !errors.Is(err, storage.ErrAway) {
			t.Errorf("%s: Confirm of a store that does not answer: %v", name, err)
		}
		server.Fail(nil)
		if _, err := db.State(t.Context(), "a"); err != nil {
			t.Errorf("%s: the store does not answer, and counts as another one: %v", name, err)
		}
		if n := exchanged(); n != 0 {
			t.Errorf("%s: assay_bucket_exchanged is %v while the store does not answer", name, n)
		}
		put(value)
		if err := db.Confirm(t.Context(), id); !errors.Is(err, storage.ErrAway) || !strings.Contains(err.Error(), "Put back the bucket") {
			t.Errorf("%s: Confirm: %v, want ErrAway and what to do", name, err)
		}
		if n := exchanged(); n != 1 {
			t.Errorf("%s: assay_bucket_exchanged is %v", name, n)
		}
		server.Fail(nil)
		_, opened := db.Open(t.Context(), "k")
		_, read := db.State(t.Context(), "a")
		for what, err := range map[string]error{
			"Open": opened, "State": read, "SetState": db.SetState(t.Context(), "a", nil), "Delete": db.Delete(t.Context(), "k"),
			"Create": db.Create(t.Context(), storage.Info{Key: "k", Size: 1}, strings.NewReader("x")),
			"Commit": draft.Commit(t.Context(), storage.Info{Key: "k", Size: 1}),
		} {
			if !errors.Is(err, storage.ErrAway) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s: %v, want ErrAway", name, what, err)
			}
		}
		if n := server.Requests(); n > 0 {
			t.Errorf("%s: %d requests to a bucket with another store", name, n)
		}
	}
}

// Verify finds damage of records, contents and states, and drops damaged objects if it may, but none of an own log.
func TestVerify(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	o := options(server)
	o.Spool = t.TempDir()
	db := open(t, o)
	create(t, db, "small", []byte("content"))
	create(t, db, "large", storagetest.Content(1, large))
	create(t, db, "sound", storagetest.Content(2, large))
	create(t, db, "log/own/0", []byte("an entry"))
	if err := db.SetState(t.Context(), "state", []byte("value")); err != nil {
		t.Fatal(err)
	}
	v, err := db.Verify(t.Context(), storage.VerifyOptions{})
	if err != nil || v != (storage.Verified{Objects: 4, Bytes: 7 + 8 + 2*large, States: 1}) {
		t.Errorf("sound: %+v, %v", v, err)
	}
	for _, key := range []string{"store/o/small", "store/o/large", "store/s/state", "store/o/log/own/0"} {
		server.Change(key, func(value []byte) []byte {
			value[len(value)/2] ^= 1
			return value
		})
	}
	var keys []string
	note := func(d storage.Damage) { keys = append(keys, fmt.Sprint(d.Key, d.Repaired)) }
	if v, err = db.Verify(t.Context(), storage.VerifyOptions{Damage: note}); err != nil || v.Damaged != 4 || v.Repaired != 0 || v.Objects != 1 {
		t.Errorf("damaged: %+v, %v, %q", v, err, keys)
	}
	if v, err = db.Verify(t.Context(), storage.VerifyOptions{Repair: true, Damage: note}); err != nil || v.Damaged != 4 || v.Repaired != 2 {
		t.Errorf("repaired: %+v, %v, %q", v, err, keys)
	}
	if v, err = db.Verify(t.Context(), storage.VerifyOptions{}); err != nil || v.Objects != 1 || v.Damaged != 2 {
		t.Errorf("afterwards: %+v, %v", v, err)
	}
	server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Before: 403, Code: "AccessDenied"} })
	if _, err = db.Verify(t.Context(), storage.VerifyOptions{}); err == nil || errors.Is(err, storage.ErrDamaged) {
		t.Errorf("a store that refuses everything: %v", err)
	}
}

// A rule that deletes keys of the store, or moves them to an archive, is found. One about other keys, one that is off, and
// one that ends uploads are not, nor one about versions that were replaced or deleted: the store reads none.
func TestExpirations(t *testing.T) {
	t.Parallel()
	const rules = `<LifecycleConfiguration>
<Rule><ID>all</ID><Status>Enabled</Status><Prefix></Prefix><Expiration><Days>30</Days></Expiration></Rule>
<Rule><ID>inside</ID><Status>Enabled</Status><Filter><Prefix>store/s/</Prefix></Filter><Expiration><Days>1</Days></Expiration></Rule>
<Rule><ID>archive</ID><Status>Enabled</Status><Filter><And><Prefix>sto</Prefix></And></Filter><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition></Rule>
<Rule><ID>deep</ID><Status>Enabled</Status><Filter><Prefix>store/c/</Prefix></Filter><Transition><Days>90</Days><StorageClass>STANDARD_IA</StorageClass></Transition><Transition><Days>180</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition></Rule>
<Rule><ID>dated</ID><Status>Enabled</Status><Filter></Filter><Expiration><Date>2030-01-01T00:00:00Z</Date></Expiration></Rule>
<Rule><ID>at once</ID><Status>Enabled</Status><Filter></Filter><Transition><Days>30</Days><StorageClass>GLACIER_IR</StorageClass></Transition></Rule>
<Rule><ID>old versions</ID><Status>Enabled</Status><Filter></Filter><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration><NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays><StorageClass>GLACIER</StorageClass></NoncurrentVersionTransition><Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule>
<Rule><ID>elsewhere</ID><Status>Enabled</Status><Filter><Prefix>other/</Prefix></Filter><Expiration><Days>1</Days></Expiration></Rule>
<Rule><ID>off</ID><Status>Disabled</Status><Filter><Prefix></Prefix></Filter><Expiration><Days>1</Days></Expiration></Rule>
<Rule><ID>uploads</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
</LifecycleConfiguration>`
	server := s3test.Start(t)
	db := open(t, options(server))
	if found, err := db.Expirations(t.Context()); err != nil || found != nil {
		t.Errorf("no rules: %q, %v", found, err)
	}
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "RULES" {
			return s3test.Fault{Instead: rules}
		}
		return s3test.Fault{}
	})
	found, err := db.Expirations(t.Context())
	want := []string{
		`"all", for keys that begin with "": it deletes them`,
		`"inside", for keys that begin with "store/s/": it deletes them`,
		`"archive", for keys that begin with "sto": it moves them to an archive`,
		`"deep", for keys that begin with "store/c/": it moves them to an archive`,
		`"dated", for keys that begin with "": it deletes them`,
	}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%q, %v, want %q", found, err, want)
	}
	server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Before: 403, Code: "AccessDenied"} })
	if _, err := db.Expirations(t.Context()); err == nil {
		t.Error("no right to read the rules: no error")
	}
}
