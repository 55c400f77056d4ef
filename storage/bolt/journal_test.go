package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// afterCrash returns a directory with what a kill of the process would leave now.
func afterCrash(t *testing.T, dir string) string {
	t.Helper()
	left := t.TempDir()
	for _, name := range []string{"meta.db", "blobs.db"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		writeSparse(t, filepath.Join(left, name), content)
	}
	return left
}

// writeSparse writes a file whose pages of zeros are holes: most of the length of a new store is.
func writeSparse(t *testing.T, path string, content []byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var zeros [4096]byte
	for at := 0; at < len(content) && err == nil; at += len(zeros) {
		page := content[at:min(at+len(zeros), len(content))]
		if !bytes.Equal(page, zeros[:len(page)]) {
			_, err = f.WriteAt(page, int64(at))
		}
	}
	if err := errors.Join(err, f.Truncate(int64(len(content))), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// journalObjects are small objects, some of which are beside their records in the tree.
func journalObjects(from, to int) map[string][]byte {
	objects := map[string][]byte{}
	for i := from; i < to; i++ {
		objects[fmt.Sprintf("m.example/%03d/@v/v1.0.0.mod", i*37%1000)] = storagetest.Content(uint64(i), []int{0, 1, 400, 512, 513, 990, 3000, 8192}[i%8])
	}
	return objects
}

func putAll(t *testing.T, db *bolt.DB, objects map[string][]byte) {
	t.Helper()
	for key, content := range objects {
		put(t, db, key, content)
	}
}

// expectAll checks that the store has the objects, and no others, in every way to ask for them.
func expectAll(t *testing.T, db *bolt.DB, objects map[string][]byte) {
	t.Helper()
	var want, got []string
	bytes := int64(0)
	for key, content := range objects {
		expectContent(t, db, key, content)
		want = append(want, key)
		bytes += int64(len(content))
	}
	slices.Sort(want)
	for info, err := range db.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Key)
		if info.Size != int64(len(objects[info.Key])) {
			t.Errorf("%s: listed with %d bytes", info.Key, info.Size)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	if s, err := db.Stats(t.Context()); err != nil || s.Objects != int64(len(objects)) || s.Bytes != bytes {
		t.Errorf("Stats = %+v, %v, want %d objects of %d bytes", s, err, len(objects), bytes)
	}
	if v, found := verify(t, db, false); found != nil || v.Objects != int64(len(objects)) || v.Bytes != bytes {
		t.Errorf("verified %+v, found %v", v, found)
	}
}

// After a kill at any time, the store has what was in the tree and what was in the journal; a merge
// that was interrupted is no damage.
func TestJournalAfterCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	putAll(t, db, journalObjects(0, 100))
	if err := db.Settle(); err != nil {
		t.Fatal(err)
	}
	putAll(t, db, journalObjects(100, 200))
	all := journalObjects(0, 200)
	expectAll(t, db, all)
	left := []string{afterCrash(t, dir)}
	if err := db.HalfMerge(); err != nil {
		t.Fatal(err)
	}
	left = append(left, afterCrash(t, dir))
	for _, dir := range left {
		before := sums(t, dir)
		readOnly := openReadOnly(t, dir)
		expectAll(t, readOnly, all)
		if err := readOnly.Close(); err != nil || sums(t, dir) != before {
			t.Errorf("a read-only store changed its files, or %v", err)
		}
		again := openDB(t, dir)
		expectAll(t, again, all)
		again.Close()
		again = openDB(t, dir)
		putAll(t, again, journalObjects(200, 210))
		expectAll(t, again, journalObjects(0, 210))
	}
}

// What is deleted, moved or replaced does not come back from the journal.
func TestJournalForgets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	content := storagetest.Content(1, 3000)
	for _, key := range []string{"deleted", "moved", "replaced", "kept"} {
		put(t, db, key, content)
	}
	other := []byte("other")
	err := errors.Join(
		db.Delete(t.Context(), "deleted"),
		db.Move(t.Context(), "moved", "to", "proof"),
		db.Replace(t.Context(), storage.Info{Key: "replaced", Size: 5}, bytes.NewReader(other)))
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, "new", content)
	want := map[string][]byte{"to": content, "replaced": other, "kept": content, "new": content}
	expectAll(t, db, want)
	again := openDB(t, afterCrash(t, dir))
	expectAll(t, again, want)
	for key := range want {
		if err := again.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	expectAll(t, again, nil)
	if err := again.ViewMeta(func(tx *bbolt.Tx) error {
		if k, _ := tx.Bucket([]byte("contents")).Cursor().First(); k != nil {
			return fmt.Errorf("content %x of a deleted object is left", k)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// A key is taken wherever its object is, and a batch that was applied can be applied again.
func TestJournalKeysAreTaken(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	content := storagetest.Content(1, 3000)
	batch := storage.Batch{Create: []storage.Small{{Info: storage.Info{Key: "k"}, Content: content}}}
	for _, settle := range []bool{false, true} {
		if settle {
			if err := db.Settle(); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Errorf("settled %v: the same batch: %v", settle, err)
		}
		changed := batch
		changed.Create = []storage.Small{{Info: storage.Info{Key: "k"}, Content: append(bytes.Clone(content[1:]), 0)}}
		if err := db.Apply(t.Context(), changed); !errors.Is(err, fs.ErrExist) {
			t.Errorf("settled %v: another content: %v", settle, err)
		}
		for _, size := range []int{10, 3000, 40_000} {
			err := db.Create(t.Context(), storage.Info{Key: "k", Size: int64(size)}, bytes.NewReader(make([]byte, size)))
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("settled %v: Create of %d bytes: %v", settle, size, err)
			}
		}
	}
	expectAll(t, db, map[string][]byte{"k": content})
}

// A damaged frame loses its objects and no others, and Verify says so. The end of a frame that was
// being written when the machine failed is no damage.
func TestJournalDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	ends := map[int]int{}
	for i := range 3 {
		put(t, db, fmt.Sprint("k", i), storagetest.Content(uint64(i), 2000))
		_, end, err := db.Journal()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = end
	}
	offset, _, err := db.Journal()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ at, lost, found int }{
		"first frame": {ends[0] - 1, 0, 1},
		"middle":      {ends[1] - 1, 1, 1},
		"last":        {ends[2] - 1, 2, 0},
		"its header":  {ends[1] + 9, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			left := afterCrash(t, dir)
			patch(t, left, "meta.db", func(file []byte) { file[offset+int64(tt.at)] ^= 1 })
			db := openDB(t, left)
			for i := range 3 {
				_, err := db.Stat(t.Context(), fmt.Sprint("k", i))
				if lost := i == tt.lost; lost != errors.Is(err, fs.ErrNotExist) || !lost && err != nil {
					t.Errorf("k%d: %v", i, err)
				}
			}
			if _, found := verify(t, db, false); len(found) != tt.found {
				t.Errorf("found %v", found)
			}
			put(t, db, fmt.Sprint("k", tt.lost), []byte("again"))
			expectContent(t, openDB(t, afterCrash(t, left)), fmt.Sprint("k", tt.lost), []byte("again"))
		})
	}
	t.Run("its page", func(t *testing.T) {
		left := afterCrash(t, dir)
		patch(t, left, "meta.db", func(file []byte) { file[offset&^4095+8] ^= 0xff })
		db := openDB(t, left)
		put(t, db, "k0", []byte("again"))
		expectContent(t, db, "k0", []byte("again"))
	})
}

// A content that contains a frame is a content, also where the journal ends before it.
func TestJournalForgedFrame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	put(t, db, "first", []byte("x"))
	offset, end, err := db.Journal()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	frame := file[offset : offset+int64(end)]
	put(t, db, "forged", bytes.Repeat(frame, 20_000/len(frame))) // one of this mark, which a client cannot know
	if err := errors.Join(db.Delete(t.Context(), "first"), db.Delete(t.Context(), "forged")); err != nil {
		t.Fatal(err)
	}
	for i := range len(frame) { // the journal ends at every byte of a frame in the content once
		put(t, db, "z", bytes.Repeat([]byte("z"), i))
		again := openDB(t, afterCrash(t, dir))
		if _, err := again.Stat(t.Context(), "first"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("a frame in a content counts: %v", err)
		}
		again.Close()
		if err := db.Delete(t.Context(), "z"); err != nil {
			t.Fatal(err)
		}
	}
}

// A store of schema 2 stays one if it must, and becomes one of schema 3 with the first small object
// otherwise: the log says so before. Its objects are read as they are.
func TestJournalOfEarlierStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openDB(t, dir).Close()
	change(t, dir, "meta.db", func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("schema")).Put([]byte("version"), binary.AppendUvarint(nil, 2))
	})
	version := func(db *bolt.DB) (v uint64, journal bool) {
		if err := db.ViewMeta(func(tx *bbolt.Tx) error {
			v, _ = binary.Uvarint(tx.Bucket([]byte("schema")).Get([]byte("version")))
			journal = tx.Bucket([]byte("journal")) != nil || tx.Bucket([]byte("contents")) != nil
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return v, journal
	}
	open := func(o bolt.Options) (db *bolt.DB, announced bool) {
		var log bytes.Buffer
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		db, err := bolt.Open(dir, &o)
		if err != nil {
			t.Fatal(err)
		}
		return db, strings.Contains(log.String(), "cannot open it any more")
	}
	kept, announced := open(bolt.Options{KeepSchema: true})
	if announced {
		t.Error("with KeepSchema the log says that earlier versions cannot open the store any more")
	}
	putAll(t, kept, journalObjects(0, 50))
	if v, journal := version(kept); v != 2 || journal {
		t.Errorf("with KeepSchema the schema is %d, journal %v", v, journal)
	}
	kept.Close()
	read, announced := open(bolt.Options{ReadOnly: true})
	if read.Close(); announced {
		t.Error("with ReadOnly the log says that earlier versions cannot open the store any more")
	}
	db, announced := open(bolt.Options{})
	t.Cleanup(func() { db.Close() })
	if !announced {
		t.Error("the log does not say that earlier versions cannot open the store any more")
	}
	if v, journal := version(db); v != 2 || journal {
		t.Errorf("before a small object the schema is %d, journal %v", v, journal)
	}
	expectAll(t, db, journalObjects(0, 50))
	putAll(t, db, journalObjects(50, 100))
	if v, journal := version(db); v != 3 || !journal {
		t.Errorf("then the schema is %d, journal %v", v, journal)
	}
	expectAll(t, db, journalObjects(0, 100))
	if _, err := db.Compact(t.Context()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	expectAll(t, openDB(t, afterCrash(t, dir)), journalObjects(0, 100))
	db.Close()
	again, announced := open(bolt.Options{})
	if again.Close(); announced {
		t.Error("the log still says that earlier versions cannot open the store any more")
	}
}

// A backup has what there was when it began, although the journal is written in place.
func TestBackupOfJournal(t *testing.T) {
	t.Parallel()
	db, dir := openDB(t, t.TempDir()), t.TempDir()
	putAll(t, db, journalObjects(0, 50))
	err := db.Backup(t.Context(), func(f storage.BackupFile) error {
		putAll(t, db, map[string][]byte{"later/" + strings.TrimSuffix(f.Name, ".db"): storagetest.Content(9, 5000)})
		out, err := os.Create(filepath.Join(dir, f.Name))
		if err != nil {
			return err
		}
		_, err = f.Content.WriteTo(out)
		return errors.Join(err, out.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	expectAll(t, openDB(t, dir), journalObjects(0, 50))
}

// A journal that is full goes on in a larger one, and larger commits than it can hold go past it.
func TestJournalGrows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	want := map[string][]byte{}
	for i := range 40 {
		var batch storage.Batch
		for k := range 30 {
			key := fmt.Sprintf("b%d/%d", i, k)
			want[key] = storagetest.Content(uint64(i*100+k), 32<<10)
			batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: key}, Content: want[key]})
		}
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	expectAll(t, openDB(t, afterCrash(t, dir)), want)
}

// Tiny objects fill the journal by their number: in memory each takes several times its frame.
func TestJournalOfTinyObjects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	want, most := map[string][]byte{}, 0
	for i := range 50 {
		var batch storage.Batch
		for k := range 1000 {
			key := fmt.Sprintf("b%03d/%d", i*37%100, k)
			want[key] = nil
			batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: key}})
		}
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		most = max(most, db.InJournal())
	}
	if most > bolt.MaxRecent || most < bolt.MaxRecent/2 {
		t.Errorf("the journal had %d objects, want at most %d", most, bolt.MaxRecent)
	}
	expectAll(t, openDB(t, afterCrash(t, dir)), want)
}

// If one meta page is damaged, bbolt uses the other one: its state has all objects, too.
func TestJournalDamagedMetaPage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	putAll(t, db, journalObjects(0, 20))
	if err := db.Settle(); err != nil {
		t.Fatal(err)
	}
	putAll(t, db, journalObjects(20, 40))
	for page := range 2 {
		left := afterCrash(t, dir)
		patch(t, left, "meta.db", func(file []byte) { file[page*4096+24] ^= 1 })
		expectAll(t, openDB(t, left), journalObjects(0, 40))
	}
}

// A repair removes no content of an object that moves meanwhile.
func TestRepairBesideMoves(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	content := storagetest.Content(1, 3000)
	for i := range 600 { // more than one step of the walk
		put(t, db, fmt.Sprintf("k%03d", i), content)
	}
	if err := db.Settle(); err != nil {
		t.Fatal(err)
	}
	moved := false
	_, err := db.Verify(t.Context(), storage.VerifyOptions{
		Repair: true,
		Damage: func(d storage.Damage) { t.Errorf("found %v", d) },
		Progress: func(storage.Verified) {
			if !moved { // behind the walk
				moved = true
				if err := db.Move(t.Context(), "k599", "a", ""); err != nil {
					t.Error(err)
				}
			}
		},
	})
	if err != nil || !moved {
		t.Fatal(err)
	}
	expectContent(t, db, "a", content)
}
