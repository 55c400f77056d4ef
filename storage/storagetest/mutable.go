package storagetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
)

func recordTests() []contract {
	return []contract{
		{"a record has the value that was set last", recordSet},
		{"a record that was not set is fs.ErrNotExist", recordAbsent},
		{"a deleted record is gone", recordDelete},
		{"a record and an object may have the same name", recordNamespace},
		{"the caller owns the value", recordOwned},
		{"swap changes what is expected, and nothing else", recordSwap},
		{"a record of 16 MiB is kept, a larger one refused", recordLarge},
		{"no increment is lost when many swap", recordCounter},
		{"one of many who make a record wins", recordFirst},
	}
}

func expectRecord(t testing.TB, s storage.Store, name string, want []byte) {
	t.Helper()
	got, err := s.Record(t.Context(), name)
	if err != nil {
		t.Errorf("Record(%q): %v", name, err)
		return
	}
	expectBytes(t, name, got, want)
}

func mustSet(t testing.TB, s storage.Store, name string, value []byte) {
	t.Helper()
	if err := s.SetRecord(t.Context(), name, value); err != nil {
		t.Fatalf("SetRecord(%q): %v", name, err)
	}
}

func recordSet(t *testing.T, s storage.Store) {
	for i, size := range []int{5, 0, 100, 5000, 1 << 20, 10} {
		value := Content(uint64(i), size)
		mustSet(t, s, "sumdb/sum.golang.org/latest", value)
		mustSet(t, s, "other", nil)
		expectRecord(t, s, "sumdb/sum.golang.org/latest", value)
	}
}

func recordAbsent(t *testing.T, s storage.Store) {
	mustSet(t, s, "a/b", nil)
	for _, name := range []string{"a", "a/b/c", "b"} {
		if v, err := s.Record(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Record(%q) = %q, %v, want fs.ErrNotExist", name, v, err)
		}
		if err := s.DeleteRecord(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("DeleteRecord(%q) = %v, want fs.ErrNotExist", name, err)
		}
	}
}

func recordDelete(t *testing.T, s storage.Store) {
	for _, size := range []int{10, 100 << 10} {
		mustSet(t, s, "r", Content(1, size))
		if err := s.DeleteRecord(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Record(t.Context(), "r"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Record = %d bytes, %v, want fs.ErrNotExist", len(v), err)
		}
	}
}

func recordNamespace(t *testing.T, s storage.Store) {
	create(t, s, "same", []byte("object"))
	mustSet(t, s, "same", []byte("record"))
	expectContent(t, s, "same", []byte("object"))
	expectRecord(t, s, "same", []byte("record"))
	mustDelete(t, s, "same")
	expectRecord(t, s, "same", []byte("record"))
}

func recordOwned(t *testing.T, s storage.Store) {
	value := []byte("value")
	mustSet(t, s, "r", value)
	value[0] = 'X'
	got, err := s.Record(t.Context(), "r")
	if err != nil {
		t.Fatal(err)
	}
	got[1] = 'X'
	expectRecord(t, s, "r", []byte("value"))
}

func recordSwap(t *testing.T, s storage.Store) {
	ctx := t.Context()
	conflict := func(old, value []byte) {
		t.Helper()
		if err := s.SwapRecord(ctx, "r", old, value); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("SwapRecord(%q, %q) = %v, want ErrConflict", old, value, err)
		}
	}
	swap := func(old, value []byte) {
		t.Helper()
		if err := s.SwapRecord(ctx, "r", old, value); err != nil {
			t.Errorf("SwapRecord(%q, %q) = %v", old, value, err)
		}
		expectRecord(t, s, "r", value)
	}
	conflict([]byte("a"), []byte("b"))
	conflict([]byte{}, []byte("b")) // an empty record is not an absent one
	if _, err := s.Record(ctx, "r"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after conflicts Record = %v, want fs.ErrNotExist", err)
	}
	swap(nil, []byte("a"))
	conflict(nil, []byte("b"))
	conflict([]byte{}, []byte("b"))
	conflict([]byte("ab"), []byte("b"))
	expectRecord(t, s, "r", []byte("a"))
	swap([]byte("a"), []byte{})
	conflict(nil, []byte("b"))
	swap([]byte{}, []byte("c"))
	swap([]byte("c"), []byte("c"))
}

func recordLarge(t *testing.T, s storage.Store) {
	mustSet(t, s, "small", []byte("beside"))
	value := Content(1, 16<<20)
	mustSet(t, s, "large", value)
	expectRecord(t, s, "large", value)
	if err := s.SetRecord(t.Context(), "large", append(value, 0)); err == nil {
		t.Error("SetRecord of 16 MiB + 1 succeeded")
	}
	if err := s.SwapRecord(t.Context(), "large", value, append(value, 0)); err == nil {
		t.Error("SwapRecord to 16 MiB + 1 succeeded")
	}
	expectRecord(t, s, "large", value)
	expectRecord(t, s, "small", []byte("beside"))
	for _, name := range []string{"", "/a", "a/", "a\x00", strings.Repeat("n", storage.MaxComponent+1), "a//b", "a/../b"} {
		if err := s.SetRecord(t.Context(), name, nil); err == nil {
			t.Errorf("SetRecord(%.10q) succeeded", name)
		}
	}
}

func recordCounter(t *testing.T, s storage.Store) {
	const workers, each = 8, 25
	mustSet(t, s, "counter", make([]byte, 8))
	parallel(t, workers, func(int) {
		for done := 0; done < each; {
			old, err := s.Record(t.Context(), "counter")
			if err != nil {
				t.Error(err)
				return
			}
			value := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(old)+1)
			switch err := s.SwapRecord(t.Context(), "counter", old, value); {
			case err == nil:
				done++
			case !errors.Is(err, storage.ErrConflict):
				t.Error(err)
				return
			}
		}
	})
	expectRecord(t, s, "counter", binary.BigEndian.AppendUint64(nil, workers*each))
}

func recordFirst(t *testing.T, s storage.Store) {
	winners := make(chan []byte, 8)
	parallel(t, 8, func(w int) {
		value := bytes.Repeat([]byte{byte('a' + w)}, 10)
		switch err := s.SwapRecord(t.Context(), "first", nil, value); {
		case err == nil:
			winners <- value
		case !errors.Is(err, storage.ErrConflict):
			t.Error(err)
		}
	})
	close(winners)
	if len(winners) != 1 {
		t.Fatalf("%d winners, want 1", len(winners))
	}
	expectRecord(t, s, "first", <-winners)
}
