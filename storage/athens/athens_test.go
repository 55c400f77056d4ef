package athens_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	athenserrors "github.com/gomods/athens/pkg/errors"
	"github.com/gomods/athens/pkg/storage/compliance"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/athens"
	"github.com/assay-proxy/assay/storage/bolt"
)

func openStore(tb testing.TB) *bolt.DB {
	tb.Helper()
	db, err := bolt.Open(tb.TempDir(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	return db
}

// empty deletes everything.
func empty(tb testing.TB, db *bolt.DB) func() error {
	return func() error {
		var errs []error
		for info, err := range db.List(tb.Context(), "") {
			if err == nil {
				err = db.Delete(tb.Context(), info.Key)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
}

// The suite is Athens' own; nobody here wrote it.
func TestCompliance(t *testing.T) {
	db := openStore(t)
	compliance.RunTests(t, athens.New(db), empty(t, db))
}

func BenchmarkCompliance(b *testing.B) {
	db := openStore(b)
	compliance.RunBenchmarks(b, athens.New(db), empty(b, db))
}

// The keys are those of the protocol: what Athens stored, our server finds.
func TestKeys(t *testing.T) {
	db := openStore(t)
	backend := athens.New(db)
	save := func(mod string) error {
		return backend.Save(t.Context(), "github.com/BurntSushi/toml", "v1.0.0-RC.1", []byte(mod), strings.NewReader("zip"), nil, []byte("{}"))
	}
	if err := save("module x"); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for info, err := range db.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	want := []string{
		"upstream/github.com/!burnt!sushi/toml/@v/v1.0.0-!r!c.1.info",
		"upstream/github.com/!burnt!sushi/toml/@v/v1.0.0-!r!c.1.mod",
		"upstream/github.com/!burnt!sushi/toml/@v/v1.0.0-!r!c.1.zip",
	}
	if !slices.Equal(keys, want) {
		t.Errorf("keys %q, want %q", keys, want)
	}
	if err := save("module x"); err != nil {
		t.Errorf("to save the same again: %v", err)
	}
	if err := save("module y"); athenserrors.Kind(err) != athenserrors.KindAlreadyExists {
		t.Errorf("to save something else: %v, want KindAlreadyExists", err)
	}
	mod, err := backend.GoMod(t.Context(), "github.com/BurntSushi/toml", "v1.0.0-RC.1")
	if err != nil || string(mod) != "module x" {
		t.Errorf("the first one is %q, %v", mod, err)
	}
}

// What a server has proved and moved is found, and deleted.
func TestProvedFiles(t *testing.T) {
	db := openStore(t)
	backend := athens.New(db)
	if err := backend.Save(t.Context(), "a.example", "v1.0.0", []byte("mod"), strings.NewReader("zip"), nil, []byte("info")); err != nil {
		t.Fatal(err)
	}
	proved := storage.ProvedBy("sum.example.com")
	if err := storage.NoteVoucher(t.Context(), db, proved); err != nil {
		t.Fatal(err)
	}
	const path = "a.example/@v/v1.0.0.mod"
	if err := db.Move(t.Context(), storage.Upstream.Key(path), proved.Key(path), "sum.example.com"); err != nil {
		t.Fatal(err)
	}
	if mod, err := backend.GoMod(t.Context(), "a.example", "v1.0.0"); err != nil || string(mod) != "mod" {
		t.Errorf("%q, %v", mod, err)
	}
	if err := backend.Delete(t.Context(), "a.example", "v1.0.0"); err != nil {
		t.Error(err)
	}
	for info := range db.List(t.Context(), "") {
		t.Errorf("%s is left", info.Key)
	}
}

// A Save that was interrupted before its last file is no version, and can be
// done again.
func TestInterruptedSave(t *testing.T) {
	db := openStore(t)
	backend := athens.New(db)
	broken := io.MultiReader(strings.NewReader("half a zip"), brokenReader{})
	if err := backend.Save(t.Context(), "a.example", "v1.0.0", []byte("mod"), broken, nil, []byte("info")); err == nil {
		t.Error("a broken zip was saved")
	}
	for range db.List(t.Context(), "") {
		t.Error("something of it is left")
	}
	if err := backend.Save(t.Context(), "b.example", "v1.0.0", []byte("mod"), strings.NewReader("zip"), nil, []byte("info")); err != nil {
		t.Fatal(err)
	}
	if err := db.Delete(t.Context(), "upstream/b.example/@v/v1.0.0.info"); err != nil {
		t.Fatal(err)
	}
	if there, err := backend.Exists(t.Context(), "b.example", "v1.0.0"); there || err != nil {
		t.Errorf("without its info it is there: %t, %v", there, err)
	}
	if err := backend.Save(t.Context(), "b.example", "v1.0.0", []byte("mod"), strings.NewReader("zip"), nil, []byte("info")); err != nil {
		t.Error(err)
	}
	zip, err := backend.Zip(t.Context(), "b.example", "v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	defer zip.Close()
	if data, err := io.ReadAll(zip); err != nil || !bytes.Equal(data, []byte("zip")) || zip.Size() != 3 {
		t.Errorf("%q, %d, %v", data, zip.Size(), err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }
