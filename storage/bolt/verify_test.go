package bolt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// verifyObjects are the objects in the stores of these tests: inline objects, blobs of one and of
// several segments, and two that share one.
var verifyObjects = map[string][]byte{
	"a.example/@v/v1.0.0.info":   storagetest.Content(1, 100),
	"a.example/@v/v1.0.0.mod":    storagetest.Content(2, 5000),
	"a.example/@v/v1.0.0.zip":    storagetest.Content(3, 700_000),
	"b.example/@v/v1.0.0.zip":    storagetest.Content(4, 6<<20),
	"fork.example/@v/v1.0.0.zip": storagetest.Content(3, 700_000),
}

func verifyStore(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	db := openDB(t, dir)
	for key, content := range verifyObjects {
		put(t, db, key, content)
	}
	if err := db.SetState(t.Context(), "head", []byte("tree 17")); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func verify(t *testing.T, db *bolt.DB, repair bool) (storage.Verified, []storage.Damage) {
	t.Helper()
	var found []storage.Damage
	v, err := db.Verify(t.Context(), storage.VerifyOptions{
		Repair: repair,
		Damage: func(d storage.Damage) { found = append(found, d) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if int(v.Damaged) != len(found) {
		t.Errorf("Damaged = %d, reported %d", v.Damaged, len(found))
	}
	return v, found
}

// change changes a file of a closed store within its format.
func change(t *testing.T, dir, name string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	b, err := bbolt.Open(filepath.Join(dir, name), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Update(fn), b.Close()); err != nil {
		t.Fatal(err)
	}
}

// overwrite changes one byte of the content in the file.
func overwrite(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for at := 0; ; n++ {
		i := bytes.Index(file[at:], content)
		if i < 0 {
			break
		}
		at += i + 1
		file[at] ^= 0x40
	}
	if n == 0 {
		t.Fatalf("%s does not have the content", name)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerifySound(t *testing.T) {
	t.Parallel()
	db := openDB(t, verifyStore(t))
	v, found := verify(t, db, false)
	want := storage.Verified{Objects: 5, States: 1, Bytes: 100 + 5000 + 700_000 + 6<<20}
	if v != want || found != nil {
		t.Errorf("got %+v and %v, want %+v", v, found, want)
	}
}

func TestVerifyFinds(t *testing.T) {
	t.Parallel()
	ref := func(tx *bbolt.Tx, key string) (k, v []byte) {
		c := tx.Bucket([]byte("refs")).Cursor()
		for k, v = c.First(); k != nil && string(k[8:]) != key; k, v = c.Next() {
		}
		return bytes.Clone(k), bytes.Clone(v)
	}
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   []string // the damages, as their keys or the beginning of their texts
		lost   []string // objects that no longer exist after the repair
	}{
		{"content of an inline object", func(t *testing.T, dir string) {
			overwrite(t, dir, "meta.db", verifyObjects["a.example/@v/v1.0.0.mod"][:900])
		}, []string{"a.example/@v/v1.0.0.mod"}, []string{"a.example/@v/v1.0.0.mod"}},

		{"content of a large object", func(t *testing.T, dir string) {
			overwrite(t, dir, "blobs.db", verifyObjects["b.example/@v/v1.0.0.zip"][5<<20:5<<20+1000])
		}, []string{"b.example/@v/v1.0.0.zip"}, []string{"b.example/@v/v1.0.0.zip"}},

		{"content that two share", func(t *testing.T, dir string) {
			overwrite(t, dir, "blobs.db", verifyObjects["a.example/@v/v1.0.0.zip"][300_000:300_100])
		}, []string{"a.example/@v/v1.0.0.zip", "fork.example/@v/v1.0.0.zip"},
			[]string{"a.example/@v/v1.0.0.zip", "fork.example/@v/v1.0.0.zip"}},

		{"header of an object record", func(t *testing.T, dir string) {
			change(t, dir, "meta.db", func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte("objects"))
				v := bytes.Clone(b.Get([]byte("b.example/@v/v1.0.0.zip")))
				v[12] ^= 1
				return b.Put([]byte("b.example/@v/v1.0.0.zip"), v)
			})
		}, []string{"b.example/@v/v1.0.0.zip"}, []string{"b.example/@v/v1.0.0.zip"}},

		{"key that nobody could have given", func(t *testing.T, dir string) {
			change(t, dir, "meta.db", func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte("objects"))
				v := bytes.Clone(b.Get([]byte("a.example/@v/v1.0.0.mod")))
				return errors.Join(b.Delete([]byte("a.example/@v/v1.0.0.mod")), b.Put([]byte("a.example/@v/v1.0.0.\xff"), v))
			})
		}, []string{"a.example/@v/v1.0.0.\xff", "content "}, []string{"a.example/@v/v1.0.0.mod"}},

		{"state", func(t *testing.T, dir string) {
			overwrite(t, dir, "meta.db", []byte("tree 17"))
		}, []string{"state head"}, nil},

		{"missing segment", func(t *testing.T, dir string) {
			change(t, dir, "blobs.db", func(tx *bbolt.Tx) error {
				blobs := tx.Bucket([]byte("blobs"))
				c := blobs.Cursor()
				for k, _ := c.First(); k != nil; k, _ = c.Next() {
					if binary.BigEndian.Uint32(k[8:]) == 1 {
						k, zero := bytes.Clone(k), make([]byte, 200_000)
						sub := blobs.Bucket(k)
						var chunks [][]byte
						_ = sub.ForEach(func(c, _ []byte) error { chunks = append(chunks, bytes.Clone(c)); return nil })
						for _, c := range chunks {
							if err := sub.Put(c, zero); err != nil {
								return err
							}
						}
						return blobs.DeleteBucket(k)
					}
				}
				return errors.New("no second segment")
			})
			// The bytes may still be where they were; a later write overwrites them.
			overwrite(t, dir, "blobs.db", verifyObjects["b.example/@v/v1.0.0.zip"][5<<20:5<<20+1000])
		}, []string{"b.example/@v/v1.0.0.zip"}, []string{"b.example/@v/v1.0.0.zip"}},

		{"missing reference", func(t *testing.T, dir string) {
			change(t, dir, "meta.db", func(tx *bbolt.Tx) error {
				k, _ := ref(tx, "b.example/@v/v1.0.0.zip")
				return tx.Bucket([]byte("refs")).Delete(k)
			})
		}, []string{"b.example/@v/v1.0.0.zip"}, nil},

		{"reference of no object", func(t *testing.T, dir string) {
			change(t, dir, "meta.db", func(tx *bbolt.Tx) error {
				k, v := ref(tx, "b.example/@v/v1.0.0.zip")
				return tx.Bucket([]byte("refs")).Put(append(k[:8], "gone.example"...), v)
			})
		}, []string{"reference "}, nil},

		{"object without its record", func(t *testing.T, dir string) {
			change(t, dir, "meta.db", func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("objects")).Delete([]byte("b.example/@v/v1.0.0.zip"))
			})
		}, []string{"reference "}, []string{"b.example/@v/v1.0.0.zip"}},

		{"blob of nobody", func(t *testing.T, dir string) {
			change(t, dir, "blobs.db", func(tx *bbolt.Tx) error {
				b, err := tx.Bucket([]byte("blobs")).CreateBucket(append(binary.BigEndian.AppendUint64(nil, 1), 0, 0, 0, 0))
				if errors.Is(err, fs.ErrExist) || err != nil {
					b, err = tx.Bucket([]byte("blobs")).CreateBucket(append(binary.BigEndian.AppendUint64(nil, 99), 0, 0, 0, 0))
				}
				if err != nil {
					return err
				}
				return b.Put([]byte{0, 0, 0, 0}, make([]byte, 100_000))
			})
		}, []string{"blob 99 is not referenced"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := verifyStore(t)
			tt.damage(t, dir)
			db := openDB(t, dir)

			_, found := verify(t, db, false)
			checkFound(t, found, tt.want, false)

			_, found = verify(t, db, true)
			checkFound(t, found, tt.want, true)
			if _, again := verify(t, db, false); again != nil {
				t.Errorf("after the repair: %v", again)
			}
			for key, content := range verifyObjects {
				if slices.Contains(tt.lost, key) {
					if _, err := db.Stat(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("%s: %v, want it gone", key, err)
					}
					put(t, db, key, content)
				}
				o, err := db.Open(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(o)
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: other content, or %v", key, err)
				}
				o.Close()
			}
			waitNoOrphans(t, db)
		})
	}
}

func checkFound(t *testing.T, found []storage.Damage, want []string, repaired bool) {
	t.Helper()
	for i, d := range found {
		if d.Repaired != repaired || !errors.Is(d.Err, storage.ErrDamaged) {
			t.Errorf("found %+v, want Repaired %v and ErrDamaged", d, repaired)
		}
		if i < len(want) && d.Key != want[i] && !(d.Key == "" && strings.HasPrefix(d.Err.Error(), want[i])) {
			t.Errorf("found %q: %v, want %q", d.Key, d.Err, want[i])
		}
	}
	if len(found) != len(want) {
		t.Errorf("found %d, want %d: %v", len(found), len(want), found)
	}
}

func waitNoOrphans(t *testing.T, db *bolt.DB) {
	t.Helper()
	for range 500 {
		s, err := db.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Orphans == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("orphans are left")
}

// An intent to delete the blob of an existing object, which a commit leaves behind when its last
// fsync fails, is removed and the object stays.
func TestWrongIntent(t *testing.T) {
	t.Parallel()
	dir := verifyStore(t)
	change(t, dir, "meta.db", func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("refs")).ForEach(func(k, _ []byte) error {
			return tx.Bucket([]byte("intents")).Put(k[:8], nil)
		})
	})
	db := openDB(t, dir)
	waitNoOrphans(t, db)
	db.Close()
	db = openDB(t, dir)
	if s, err := db.Stats(t.Context()); err != nil || s.Orphans != 0 {
		t.Errorf("orphans after a restart: %+v, %v", s, err)
	}
	if v, found := verify(t, db, false); found != nil || v.Objects != 5 {
		t.Errorf("%+v, found %v", v, found)
	}
}

// An invalid page stops the walk, and then nothing counts as unused.
func TestVerifyBrokenPage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	for i := range 300 {
		put(t, db, fmt.Sprintf("m.example/@v/v1.0.%d.mod", i), storagetest.Content(uint64(i), 2000))
	}
	put(t, db, "m.example/@v/v1.0.0.zip", storagetest.Content(3, 700_000))
	db.Close()

	path := filepath.Join(dir, "meta.db")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The header of the page in which the content of one object begins. The journal also has the
	// content, in pages without a header.
	page := 0
	for i := 0; !bytes.Equal(file[page:page+8], binary.NativeEndian.AppendUint64(nil, uint64(page/4096))) || page == 0; i++ {
		next := bytes.Index(file[i:], storagetest.Content(150, 2000)[:900])
		if next < 0 {
			t.Fatal("the content is not in the file")
		}
		i += next
		page = i &^ 4095
	}
	file[page+8] ^= 0xff
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}

	db = openDB(t, dir)
	_, found := verify(t, db, true)
	if len(found) == 0 {
		t.Error("found nothing")
	}
	for _, d := range found {
		t.Log(d.Key, d.Err)
		if d.Key == "" && d.Repaired {
			t.Errorf("repaired though not everything was seen: %v", d.Err)
		}
	}
	if _, err := db.Stat(t.Context(), "m.example/@v/v1.0.0.zip"); err != nil {
		t.Error(err)
	}
}

// Verify runs during creations and deletions, and reports none of them as damage.
func TestVerifyBesideWrites(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 4)
	for w := range 4 {
		go func() {
			var err error
			for i := 0; ctx.Err() == nil && err == nil; i++ {
				key := fmt.Sprintf("w%d/%d", w, i%7)
				content := storagetest.Content(uint64(i%5), 40_000+i%5*90_000)
				err = db.Create(context.Background(), storage.Info{Key: key, Size: int64(len(content))}, bytes.NewReader(content))
				if err == nil && i%3 > 0 || errors.Is(err, fs.ErrExist) {
					err = db.Delete(context.Background(), key)
				}
			}
			done <- err
		}()
	}
	for range 30 {
		if _, found := verify(t, db, true); found != nil {
			t.Errorf("found %v", found)
		}
	}
	cancel()
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// An object that a client replaces while Verify runs is neither found damaged, because its content
// is not the one from before, nor deleted, because the one from before was damaged.
func TestVerifyBesideReplacement(t *testing.T) {
	t.Parallel()
	dir := verifyStore(t)
	overwrite(t, dir, "blobs.db", verifyObjects["a.example/@v/v1.0.0.zip"][300_000:300_100])
	db := openDB(t, dir)
	replaced := map[string][]byte{
		"b.example/@v/v1.0.0.zip":    storagetest.Content(5, 700_000),
		"fork.example/@v/v1.0.0.zip": storagetest.Content(6, 700_000),
	}
	found := map[string]bool{}
	_, err := db.Verify(t.Context(), storage.VerifyOptions{Repair: true, Damage: func(d storage.Damage) {
		if len(found) == 0 { // the objects after it are not read yet
			for key, content := range replaced {
				if err := db.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
				put(t, db, key, content)
			}
		}
		found[d.Key] = true
	}})
	if err != nil || !found["a.example/@v/v1.0.0.zip"] || found["b.example/@v/v1.0.0.zip"] {
		t.Errorf("found %v, %v", found, err)
	}
	for key, content := range replaced {
		o, err := db.Open(t.Context(), key)
		if err != nil {
			t.Error(err)
			continue
		}
		if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s has %d bytes, %v", key, len(got), err)
		}
		o.Close()
	}
}

// A state that is set while Verify runs is not deleted because its value from before was damaged.
func TestVerifyBesideSetState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	for _, name := range []string{"first", "gone", "written"} {
		if err := db.SetState(t.Context(), name, []byte("the old value of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	for _, name := range []string{"first", "gone", "written"} {
		overwrite(t, dir, "meta.db", []byte("the old value of "+name))
	}
	db = openDB(t, dir)
	count := 0
	v, err := db.Verify(t.Context(), storage.VerifyOptions{Repair: true, Damage: func(storage.Damage) {
		if count++; count == 1 { // the others are found, and not repaired yet
			if err := db.SetState(t.Context(), "written", []byte("new")); err != nil {
				t.Error(err)
			}
			if err := db.DeleteState(t.Context(), "gone"); err != nil {
				t.Error(err)
			}
		}
	}})
	if err != nil || v.Damaged != 3 || v.Repaired != 3 {
		t.Errorf("Verify = %+v, %v", v, err)
	}
	if value, err := db.State(t.Context(), "written"); err != nil || string(value) != "new" {
		t.Errorf("State = %q, %v, want the new value", value, err)
	}
}

func TestVerifyStops(t *testing.T) {
	t.Parallel()
	db := openDB(t, verifyStore(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.Verify(ctx, storage.VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

func TestOpenExisting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := bolt.Open(dir, &bolt.Options{Existing: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v, want ErrNotExist", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	db, err := bolt.Open(verifyStore(t), &bolt.Options{Existing: true})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
}
