package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// outdatedObject is an object of a store of schema 1, and its expected key.
type outdatedObject struct {
	from, to, proof string
	content         []byte
}

// outdatedObjects returns objects of each kind.
func outdatedObjects() (all []outdatedObject) {
	const database, log = "sum.golang.org", "sum.corp.example"
	blob := storagetest.Content(1, 100_000)
	add := func(prefix, path, proof string, content []byte) {
		to := storage.Key(prefix + storage.Key(path))
		if prefix == "" {
			to = path
		}
		all = append(all, outdatedObject{storage.Key(path), to, proof, content})
	}
	for i := range 30 {
		version := fmt.Sprintf("example.com/m%d/@v/v1.0.0", i)
		add("upstream/", version+".info", "", []byte(version))
		add("proved/sum.golang.org/", version+".mod", database, []byte("module "+version))
		add("proved/sum.golang.org/", version+".zip", database, storagetest.Content(uint64(i), 40_000+i*10_000))
		add("", "sumdb/sum.golang.org/lookup/"+version, database, []byte("record "+version))
	}
	add("upstream/", "zzz.example/unproved/@v/v1.0.0.zip", "", blob)
	add("upstream/", "zzz.example/copy/@v/v1.0.0.zip", "", blob) // the same blob
	add("proved/sum.golang.org/", "proxy.example/m/@v/v1.0.0.zip", database, blob)
	for _, file := range []string{"info", "mod", "zip"} { // sorted between the keys of this version
		add("pinned/sum.corp.example/", "q.corp.example/lib/@v/v1.0.0."+file, log, []byte(file))
	}
	add("proved/other.example%2Fdb/", "example.com/other/@v/v1.0.0.mod", "other.example/db", []byte("other"))
	add("", "sumdb/other.example/db/lookup/example.com/other@v1.0.0", "other.example/db", []byte("record"))
	deep := "example.com" + strings.Repeat("/abcdefghi", 90)
	add("upstream/", deep+"/@v/v1.0.0.info", "", []byte("deep"))
	return all
}

// outdatedStore creates a store of schema 1 in dir.
func outdatedStore(t *testing.T, dir string) []outdatedObject {
	t.Helper()
	db := openDB(t, dir)
	all := outdatedObjects()
	for _, o := range all {
		info := storage.Info{Key: o.from, Size: int64(len(o.content)), Proof: o.proof, Hash: "hash of " + o.from}
		if err := db.Create(t.Context(), info, bytes.NewReader(o.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(db.Outdate(), db.Close()); err != nil {
		t.Fatal(err)
	}
	return all
}

// openOutdated opens an outdated store, and calls do with it if that is not nil.
func openOutdated(t *testing.T, dir string, do func(*bolt.Outdated)) *bolt.DB {
	t.Helper()
	old := false
	db, err := bolt.Open(dir, &bolt.Options{Outdated: func(o *bolt.Outdated) error {
		old = true
		if do != nil {
			do(o)
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if !old {
		t.Error("the store is not outdated")
	}
	return db
}

// expectRekeyed checks that all objects, and no others, have their new keys.
func expectRekeyed(t *testing.T, db *bolt.DB, all []outdatedObject) {
	t.Helper()
	var want, got []string
	for _, o := range all {
		want = append(want, o.to)
		object, err := db.Open(t.Context(), o.to)
		if err != nil {
			t.Error(err)
			continue
		}
		content, err := io.ReadAll(object)
		info := object.Info()
		if err != nil || !bytes.Equal(content, o.content) || info.Proof != o.proof || info.Hash != "hash of "+o.from {
			t.Errorf("%s: %+v, %d bytes, %v", o.to, info, len(content), err)
		}
		object.Close()
	}
	for info, err := range db.List(t.Context(), "") {
		if err != nil {
			t.Error(err)
		}
		got = append(got, info.Key)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got keys\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if v, found := verify(t, db, false); found != nil || v.Objects != int64(len(all)) {
		t.Errorf("%+v, %v", v, found)
	}
	noted, err := storage.Vouchers(t.Context(), db)
	slices.Sort(noted)
	if want := []storage.Voucher{"pinned/sum.corp.example", "proved/other.example%2Fdb", "proved/sum.golang.org", "upstream"}; err != nil || !slices.Equal(noted, want) {
		t.Errorf("vouchers %q, %v, want %q", noted, err, want)
	}
}

func TestRekey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all := outdatedStore(t, dir)
	if _, err := bolt.Open(dir, nil); !errors.Is(err, storage.ErrOlder) {
		t.Errorf("got %v, want ErrOlder", err)
	}
	db := openOutdated(t, dir, nil)
	if _, found := verify(t, db, false); found != nil {
		t.Error(found)
	}
	db.Close()
	var told []bolt.Rekeyed
	db = openOutdated(t, dir, func(o *bolt.Outdated) {
		if err := o.Rekey(t.Context(), func(r bolt.Rekeyed) { told = append(told, r) }); err != nil {
			t.Fatal(err)
		}
	})
	last := told[len(told)-1]
	if want := (bolt.Rekeyed{Total: last.Total}); told[0] != want {
		t.Errorf("the progress at first is %+v, want %+v", told[0], want)
	}
	if last.Done != last.Total || last.Done == 0 || last.Left != 0 {
		t.Errorf("%+v", last)
	}
	expectRekeyed(t, db, all)
	db.Close()
	expectRekeyed(t, openDB(t, dir), all)
}

// Open returns the error of the function Outdated for an outdated store, and leaves the store
// unchanged.
func TestOutdatedRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outdatedStore(t, dir)
	before := snapshot(t, dir)
	refused := errors.New("refused")
	if _, err := bolt.Open(dir, &bolt.Options{Outdated: func(*bolt.Outdated) error { return refused }}); !errors.Is(err, refused) {
		t.Errorf("got %v, want %v", err, refused)
	}
	for name, content := range snapshot(t, dir) {
		if !bytes.Equal(before[name], content) {
			t.Errorf("%s has changed", name)
		}
	}
}

// Rekey ends with its context, after each of its transactions, and the next call continues. After
// the first transaction an older program refuses the store, and so does everything that needs the
// keys.
func TestRekeyInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all := outdatedStore(t, dir)
	ended := 0
	for err := errors.New("not begun"); err != nil; ended++ {
		if ended > 200 {
			t.Fatal("it does not go on")
		}
		db := openOutdated(t, dir, func(o *bolt.Outdated) {
			if err = o.RekeyBy(&countdown{t.Context(), 9}, 2, func(bolt.Rekeyed) {}); err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		})
		version := uint64(0)
		if err := db.ViewMeta(func(tx *bbolt.Tx) error {
			version, _ = binary.Uvarint(tx.Bucket([]byte("schema")).Get([]byte("version")))
			return nil
		}); err != nil || version != 2 {
			t.Fatalf("version %d, %v: a program of before would open it", version, err)
		}
		if err != nil {
			if _, err := db.Verify(t.Context(), storage.VerifyOptions{Repair: true}); !errors.Is(err, storage.ErrOlder) {
				t.Errorf("Verify: %v, want ErrOlder", err)
			}
		}
		db.Close()
		if err != nil {
			if _, err := bolt.Open(dir, nil); !errors.Is(err, storage.ErrOlder) {
				t.Errorf("got %v, want ErrOlder", err)
			}
		}
	}
	if ended < 10 {
		t.Errorf("it was interrupted only %d times", ended)
	}
	expectRekeyed(t, openDB(t, dir), all)
}

// countdown is a context that ends after a number of calls of Err.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// A damaged object keeps its key, so that Verify reports it.
func TestRekeyDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	put(t, db, "example.com/a/@v/v1.0.0.info", []byte("a"))
	if err := errors.Join(db.PutDamaged("example.com/b/@v/v1.0.0.info"), db.Outdate(), db.Close()); err != nil {
		t.Fatal(err)
	}
	var last bolt.Rekeyed
	db = openOutdated(t, dir, func(o *bolt.Outdated) {
		if err := o.Rekey(t.Context(), func(r bolt.Rekeyed) { last = r }); err != nil {
			t.Fatal(err)
		}
	})
	if want := (bolt.Rekeyed{Done: 2, Total: 2, Left: 1}); last != want {
		t.Errorf("%+v, want %+v", last, want)
	}
	expectObject(t, db, "upstream/example.com/a/@v/v1.0.0.info", []byte("a"))
	if _, found := verify(t, db, true); len(found) != 1 || found[0].Key != "example.com/b/@v/v1.0.0.info" || !found[0].Repaired {
		t.Errorf("%+v", found)
	}
}

func expectObject(t *testing.T, db *bolt.DB, key string, want []byte) {
	t.Helper()
	object, err := db.Open(t.Context(), key)
	if err != nil {
		t.Error(err)
		return
	}
	defer object.Close()
	if got, err := io.ReadAll(object); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %q, %v", key, got, err)
	}
}

// rekeyStore moves the keys a few at a time. Before each commit it prints a line, and waits for
// a byte.
func rekeyStore(dir string) error {
	_, err := bolt.Open(dir, &bolt.Options{Outdated: func(o *bolt.Outdated) error {
		return o.RekeyBy(&talking{context.Background()}, 2, func(bolt.Rekeyed) {})
	}})
	return err
}

// talking is a context that prints a line at each call of Err, and waits for a byte.
type talking struct{ context.Context }

func (talking) Err() error {
	os.Stdout.WriteString("step\n")
	_, err := os.Stdin.Read(make([]byte, 1))
	return err
}

// A move that is killed again and again ends eventually.
func TestRekeyKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all := outdatedStore(t, dir)
	kills := 0
	for {
		cmd := helperCommand(t, "rekey", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for range 3 + kills%4 {
			if _, err = lines.ReadString('\n'); err != nil {
				break
			}
			_, _ = in.Write([]byte{0}) // it has ended, or goes on
		}
		killed := err == nil
		if killed { // during a write, most of the time
			_ = cmd.Process.Kill()
		}
		_, _ = io.Copy(io.Discard, lines)
		if err := cmd.Wait(); err == nil {
			break
		} else if !killed {
			t.Fatal(err)
		}
		kills++
	}
	if kills < 5 {
		t.Errorf("it was killed only %d times", kills)
	}
	expectRekeyed(t, openDB(t, dir), all)
}
