package bolt_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// helperEnv makes the test binary another process: its value is the name of a function in helpers.
const helperEnv = "ASSAY_STORAGE_HELPER"

var helpers = map[string]func(dir string) error{
	"hold":     holdStore,
	"churn":    churnStore,
	"batch":    batchStore,
	"rekey":    rekeyStore,
	"maintain": maintainStore,
	"full":     fullDisk,
	"readonly": readOnlyDisk,
}

func TestMain(m *testing.M) {
	if helper := helpers[os.Getenv(helperEnv)]; helper != nil {
		if err := helper(os.Args[1]); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helperCommand returns a command that runs a helper on dir.
func helperCommand(t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, dir)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// holdStore keeps the store open until its input ends.
func holdStore(dir string) error {
	db, err := bolt.Open(dir, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	os.Stdout.WriteString("held\n")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func TestOpenHeldByAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := verifyStore(t)
	cmd := helperCommand(t, "hold", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, err = bolt.Open(dir, nil)
	if !errors.Is(err, storage.ErrInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "stop that process") {
		t.Errorf("got %v, want ErrInUse with the directory and what to do", err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, dir)
	if v, found := verify(t, db, false); found != nil || v.Objects != 5 {
		t.Errorf("%+v, %v", v, found)
	}
}

// A refused Open leaves the files unchanged.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	write := func(name, content string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	schema := func(name, key string, value []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			change(t, dir, name, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("schema")).Put([]byte(key), value) })
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   error
		text   string
	}{
		{"text file", write("meta.db", strings.Repeat("Dear diary, ", 10000)), storage.ErrForeign, "meta.db"},
		{"short text file", write("blobs.db", "x"), storage.ErrForeign, "blobs.db"},
		{"SQLite", write("meta.db", "SQLite format 3\x00"+strings.Repeat("\x00", 8192)), storage.ErrForeign, "move the file away"},
		{"somebody else's bbolt", func(t *testing.T, dir string) {
			for _, name := range []string{"meta.db", "blobs.db"} {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				change(t, dir, name, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })
			}
		}, storage.ErrForeign, "move the file away"},
		{"newer schema", schema("meta.db", "version", binary.AppendUvarint(nil, 4)), storage.ErrNewer, "its schema is 4, this program knows 3"},
		{"older schema", schema("meta.db", "version", binary.AppendUvarint(nil, 1)), storage.ErrOlder, "start assay serve once"},
		{"half moved", schema("meta.db", "rekeying", []byte("\x02\x04\x00\x01a")), storage.ErrOlder, "start assay serve once"},
		{"newer schema of blobs", schema("blobs.db", "version", binary.AppendUvarint(nil, 99)), storage.ErrNewer, "use the newer program"},
		{"another magic", schema("meta.db", "magic", []byte("other")), storage.ErrForeign, "meta.db"},
		{"no version", schema("meta.db", "version", nil), storage.ErrDamaged, "backup"},
		{"two stores", schema("meta.db", "pair", []byte("another")), storage.ErrDamaged, "two different stores"},
		{"without meta.db", func(t *testing.T, dir string) { remove(t, dir, "meta.db") }, storage.ErrDamaged, "meta.db is missing"},
		{"without blobs.db", func(t *testing.T, dir string) { remove(t, dir, "blobs.db") }, storage.ErrDamaged, "blobs.db is missing"},
		{"cut off", func(t *testing.T, dir string) { cut(t, dir, "meta.db", 3000) }, storage.ErrDamaged, "backup"},
		{"blobs cut off", func(t *testing.T, dir string) { cut(t, dir, "blobs.db", 20<<10) }, storage.ErrDamaged, "backup"},
		{"both meta pages damaged", func(t *testing.T, dir string) {
			patch(t, dir, "meta.db", func(file []byte) { file[24] ^= 1; file[4096+24] ^= 1 })
		}, nil, "meta.db"},
		{"a directory in its place", func(t *testing.T, dir string) {
			remove(t, dir, "meta.db")
			if err := os.Mkdir(filepath.Join(dir, "meta.db"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, nil, "meta.db"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := verifyStore(t)
			tt.damage(t, dir)
			before := snapshot(t, dir)
			db, err := bolt.Open(dir, nil)
			if err == nil {
				db.Close()
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
			after := snapshot(t, dir)
			for name, content := range before {
				if !bytes.Equal(after[name], content) {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}
	t.Run("a file instead of the directory", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Open(name, nil); err == nil || !strings.Contains(err.Error(), "name a directory") {
			t.Errorf("got %v", err)
		}
	})
}

// The files of a killed start are removed by the next start that has exclusive use of the store,
// and by no other.
func TestOpenRemovesUnfinished(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a[1]*")
	db := openDB(t, dir)
	left := []string{"meta.db.123.new", "blobs.db.4711.new"}
	kept := []string{"meta.db.new", "other.1.new", "meta.db.1.new.old", "backup-meta.db.1.new"}
	for _, name := range slices.Concat(left, kept) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bolt.Open(dir, &bolt.Options{LockTimeout: time.Millisecond}); !errors.Is(err, storage.ErrInUse) {
		t.Fatalf("a second open: %v, want ErrInUse", err)
	}
	exists := func(name string) bool { _, err := os.Lstat(filepath.Join(dir, name)); return err == nil }
	for _, name := range left {
		if !exists(name) {
			t.Errorf("%s was removed by a process that does not have the store", name)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openDB(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range left {
		if exists(name) {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range kept {
		if !exists(name) {
			t.Errorf("%s is not ours, and was removed", name)
		}
	}
}

// An interrupted first start, and empty files that were created for us, are not a loss.
func TestOpenUnfinished(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{"blobs.db"}, {"meta.db"}, {"meta.db", "blobs.db"}} {
		dir := t.TempDir()
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		db := openDB(t, dir)
		put(t, db, "a", []byte("b"))
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	dir := t.TempDir()
	if err := openDB(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	remove(t, dir, "meta.db") // blobs.db is created first, and has no mark of another file yet
	change(t, dir, "blobs.db", func(tx *bbolt.Tx) error { return tx.Bucket([]byte("schema")).Delete([]byte("joined")) })
	if err := openDB(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
}

// The loss of meta.db is noticed also when all stored objects were in it.
func TestOpenWithoutSmallObjects(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{true, false} {
		dir := t.TempDir()
		db := openDB(t, dir)
		if stored {
			put(t, db, "a", []byte("b"))
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		remove(t, dir, "meta.db")
		for range 2 { // a refusal leaves nothing that the next start accepts as a store
			if db, err := bolt.Open(dir, nil); !errors.Is(err, storage.ErrDamaged) || !strings.Contains(err.Error(), "meta.db is missing") {
				t.Errorf("Open without the meta.db of a small store: %v", err)
				db.Close()
			}
		}
	}
}

// bbolt repairs one damaged meta page of two.
func TestOpenOneMetaPage(t *testing.T) {
	t.Parallel()
	for page := range 2 {
		dir := verifyStore(t)
		patch(t, dir, "meta.db", func(file []byte) { file[page*4096+24] ^= 1 })
		db, err := bolt.Open(dir, nil)
		if err != nil {
			t.Errorf("page %d: %v", page, err)
			continue
		}
		db.Close()
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, dir, name string, size int64) {
	t.Helper()
	if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
		t.Fatal(err)
	}
}

// patch changes the bytes of a file.
func patch(t *testing.T, dir, name string, fn func(file []byte)) {
	t.Helper()
	path := filepath.Join(dir, name)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fn(file)
	writeSparse(t, path, file)
}

// snapshot returns the files in dir.
func snapshot(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if !e.IsDir() {
			if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	return files
}

// A store from before the limit of 896 bytes for keys may have longer ones. They can be read and
// deleted, and not created.
func TestLongKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	info := storage.Info{Key: strings.Repeat("very-long/", 200) + "x", Size: 4}
	if err := openDB(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	change(t, dir, "meta.db", func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("objects")).Put([]byte(info.Key), bolt.EncodeInline(info, []byte("text")))
	})
	db := openDB(t, dir)
	o, err := db.Open(t.Context(), info.Key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if text, err := io.ReadAll(o); err != nil || string(text) != "text" {
		t.Errorf("read %q, %v", text, err)
	}
	var listed []string
	for i, err := range db.List(t.Context(), "very") {
		listed = append(listed, fmt.Sprint(i.Key, err))
	}
	if want := []string{fmt.Sprint(info.Key, nil)}; !slices.Equal(listed, want) {
		t.Errorf("List yields %q, want %q", listed, want)
	}
	if err := db.Replace(t.Context(), info, strings.NewReader("text")); err == nil {
		t.Error("Replace of a long key succeeded")
	}
	if err := db.Delete(t.Context(), info.Key); err != nil {
		t.Error(err)
	}
	if _, err := db.Stat(t.Context(), info.Key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Delete Stat = %v, want fs.ErrNotExist", err)
	}
}
