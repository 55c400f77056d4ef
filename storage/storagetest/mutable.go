package storagetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
)

func stateTests() []contract {
	return []contract{
		{"a state has the value that was set last", stateSet},
		{"a state that was not set is fs.ErrNotExist", stateAbsent},
		{"a deleted state is gone", stateDelete},
		{"a state and an object may have the same name", stateNamespace},
		{"the caller owns the value", stateOwned},
		{"swap changes what is expected, and nothing else", stateSwap},
		{"no increment is lost when many swap", stateCounter},
		{"one of many who make a state wins", stateFirst},
		{"a list of states has all of them, in order", stateList},
	}
}

func expectState(t testing.TB, s storage.Store, name string, want []byte) {
	t.Helper()
	got, err := s.State(t.Context(), name)
	if err != nil {
		t.Errorf("State(%q): %v", name, err)
		return
	}
	expectBytes(t, name, got, want)
}

func mustSet(t testing.TB, s storage.Store, name string, value []byte) {
	t.Helper()
	if err := s.SetState(t.Context(), name, value); err != nil {
		t.Fatalf("SetState(%q): %v", name, err)
	}
}

func stateSet(t *testing.T, s storage.Store) {
	for i, size := range []int{5, 0, 100, 5000, 1 << 20, 10} {
		value := Content(uint64(i), size)
		mustSet(t, s, "sumdb/sum.golang.org/latest", value)
		mustSet(t, s, "other", nil)
		expectState(t, s, "sumdb/sum.golang.org/latest", value)
	}
}

func stateAbsent(t *testing.T, s storage.Store) {
	mustSet(t, s, "a/b", nil)
	for _, name := range []string{"a", "a/b/c", "b"} {
		if v, err := s.State(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("State(%q) = %q, %v, want fs.ErrNotExist", name, v, err)
		}
		if err := s.DeleteState(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("DeleteState(%q) = %v, want fs.ErrNotExist", name, err)
		}
	}
}

func stateDelete(t *testing.T, s storage.Store) {
	for _, size := range []int{10, 100 << 10} {
		mustSet(t, s, "r", Content(1, size))
		if err := s.DeleteState(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		if v, err := s.State(t.Context(), "r"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("State = %d bytes, %v, want fs.ErrNotExist", len(v), err)
		}
	}
}

func stateNamespace(t *testing.T, s storage.Store) {
	create(t, s, "same", []byte("object"))
	mustSet(t, s, "same", []byte("state"))
	expectContent(t, s, "same", []byte("object"))
	expectState(t, s, "same", []byte("state"))
	mustDelete(t, s, "same")
	expectState(t, s, "same", []byte("state"))
}

func stateOwned(t *testing.T, s storage.Store) {
	value := []byte("value")
	mustSet(t, s, "r", value)
	value[0] = 'X'
	got, err := s.State(t.Context(), "r")
	if err != nil {
		t.Fatal(err)
	}
	got[1] = 'X'
	expectState(t, s, "r", []byte("value"))
}

func stateSwap(t *testing.T, s storage.Store) {
	ctx := t.Context()
	conflict := func(old, value []byte) {
		t.Helper()
		if err := s.SwapState(ctx, "r", old, value); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("SwapState(%q, %q) = %v, want ErrConflict", old, value, err)
		}
	}
	swap := func(old, value []byte) {
		t.Helper()
		if err := s.SwapState(ctx, "r", old, value); err != nil {
			t.Errorf("SwapState(%q, %q) = %v", old, value, err)
		}
		expectState(t, s, "r", value)
	}
	conflict([]byte("a"), []byte("b"))
	conflict([]byte{}, []byte("b")) // an empty state is not an absent one
	if _, err := s.State(ctx, "r"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after conflicts State = %v, want fs.ErrNotExist", err)
	}
	swap(nil, []byte("a"))
	conflict(nil, []byte("b"))
	conflict([]byte{}, []byte("b"))
	conflict([]byte("ab"), []byte("b"))
	expectState(t, s, "r", []byte("a"))
	swap([]byte("a"), []byte{})
	conflict(nil, []byte("b"))
	swap([]byte{}, []byte("c"))
	swap([]byte("c"), []byte("c"))
}

func stateLarge(t *testing.T, s storage.Store) {
	mustSet(t, s, "small", []byte("beside"))
	value := Content(1, 16<<20)
	mustSet(t, s, "large", value)
	expectState(t, s, "large", value)
	if err := s.SetState(t.Context(), "large", append(value, 0)); err == nil {
		t.Error("SetState of 16 MiB + 1 succeeded")
	}
	if err := s.SwapState(t.Context(), "large", value, append(value, 0)); err == nil {
		t.Error("SwapState to 16 MiB + 1 succeeded")
	}
	expectState(t, s, "large", value)
	expectState(t, s, "small", []byte("beside"))
	for _, name := range []string{"", "/a", "a/", "a\x00", strings.Repeat("n", storage.MaxComponent+1), "a//b", "a/../b"} {
		if err := s.SetState(t.Context(), name, nil); err == nil {
			t.Errorf("SetState(%.10q) succeeded", name)
		}
	}
}

func stateCounter(t *testing.T, s storage.Store) {
	const workers, each = 8, 25
	mustSet(t, s, "counter", make([]byte, 8))
	parallel(t, workers, func(int) {
		for done := 0; done < each; {
			old, err := s.State(t.Context(), "counter")
			if err != nil {
				t.Error(err)
				return
			}
			value := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(old)+1)
			switch err := s.SwapState(t.Context(), "counter", old, value); {
			case err == nil:
				done++
			case !errors.Is(err, storage.ErrConflict):
				t.Error(err)
				return
			}
		}
	})
	expectState(t, s, "counter", binary.BigEndian.AppendUint64(nil, workers*each))
}

func stateFirst(t *testing.T, s storage.Store) {
	winners := make(chan []byte, 8)
	parallel(t, 8, func(w int) {
		value := bytes.Repeat([]byte{byte('a' + w)}, 10)
		switch err := s.SwapState(t.Context(), "first", nil, value); {
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
	expectState(t, s, "first", <-winners)
}

// stateList is about the engines that can list states.
func stateList(t *testing.T, s storage.Store) {
	lister, ok := s.(storage.Enumerator)
	if !ok {
		t.Skip("it lists no states")
	}
	var want []string
	for i := range 1010 { // more than one page of any engine
		name := fmt.Sprintf("absent/%04d", i)
		mustSet(t, s, name, nil)
		want = append(want, name)
	}
	mustSet(t, s, "absen", nil)
	mustSet(t, s, "b", nil)
	create(t, s, "absent/object", []byte("x")) // no state
	for prefix, want := range map[string][]string{"absent/": want, "c": nil, "": append(append([]string{"absen"}, want...), "b")} {
		var got []string
		for name, err := range lister.States(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("States(%q) has %d names, want %d", prefix, len(got), len(want))
		}
	}
}
