package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-proxy/assay/storage"
)

func listTests() []contract {
	return []contract{
		{"an empty store lists nothing", listEmpty},
		{"keys come in lexical order, by prefix", listOrder},
		{"may be left early and run twice", listBreak},
		{"states are not objects", listWithoutStates},
	}
}

func listEmpty(t *testing.T, s storage.Store) {
	for _, prefix := range []string{"", "a"} {
		if got := listed(t, s, prefix); len(got) > 0 {
			t.Errorf("List(%q) = %q, want nothing", prefix, got)
		}
	}
}

func listOrder(t *testing.T, s storage.Store) {
	component := strings.Repeat("c", 255)
	keys := []string{
		"example.com/a/@v/v1.0.0.info",
		"example.com/a/@v/v1.0.0.mod",
		"example.com/a/@v/v1.0.0.zip",
		"example.com/a/@v/v1.0.0+incompatible.zip",
		"example.com/a/@v/v1.0.0-pre.zip",
		"example.com/a/@v/v1.10.0.zip",
		"example.com/a/@v/v1.2.0.zip",
		"example.com/a-b/@v/v1.0.0.zip",
		"example.com/a.b/@v/v1.0.0.zip",
		"example.com/a/b/@v/v1.0.0.zip",
		"example.com/!a/@v/v1.0.0.zip",
		"example.com/!a!b/@v/v1.0.0.zip",
		"example.com/" + component + "/" + component + "/@v/v1.0.0.zip",
		"example.com/" + component + "/a",
		"example.comm",
		"exampl",
		"sumdb/é/1",
		"sumdb/\U0010ffff",
		"z",
	}
	for _, i := range []int{7, 3, 11, 0, 18, 9, 1, 15, 5, 13, 2, 17, 8, 4, 12, 6, 16, 10, 14} {
		create(t, s, keys[i], []byte(keys[i]))
	}
	slices.Sort(keys)
	for _, prefix := range []string{
		"", "e", "example.com", "example.com/", "example.com/a", "example.com/a/", "example.com/a/@v/",
		"example.com/a/@v/v1.0.0", "example.com/!a", "example.com/" + component, "example.com/" + component + "/",
		"sumdb/", "sumdb/é", "sumdb/\U0010ffff", "z", "zz", "a", "example.com/a/@v/v1.0.0.zipp", "/",
	} {
		want := []string{}
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		if diff := cmp.Diff(want, listed(t, s, prefix)); diff != "" {
			t.Errorf("List(%q) (-want +got):\n%s", prefix, diff)
		}
	}
}

// listKeys creates n keys below prefix, in many goroutines, because some engines commit
// slowly.
func listKeys(t *testing.T, s storage.Store, prefix string, n int) []string {
	t.Helper()
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s%05d", prefix, i)
	}
	parallel(t, 16, func(w int) {
		for i := w; i < n; i += 16 {
			create(t, s, keys[i], []byte(keys[i]))
		}
	})
	return keys
}

func listLong(t *testing.T, s storage.Store) {
	before := listKeys(t, s, "a/", 10)
	keys := listKeys(t, s, "list/", 2100)
	after := listKeys(t, s, "z/", 10)
	if diff := cmp.Diff(keys, listed(t, s, "list/")); diff != "" {
		t.Errorf("List(list/) (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(slices.Concat(before, keys, after), listed(t, s, "")); diff != "" {
		t.Errorf("List() (-want +got):\n%s", diff)
	}
}

func listBreak(t *testing.T, s storage.Store) {
	keys := listKeys(t, s, "k", 5)
	list := s.List(t.Context(), "k")
	for range 2 {
		var got []string
		for info, err := range list {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, info.Key); len(got) == 3 {
				break
			}
		}
		for key, err := range s.Keys(t.Context(), "k") {
			if err != nil || key != keys[0] {
				t.Errorf("Keys begins with %q, %v, want %q", key, err, keys[0])
			}
			break
		}
		if diff := cmp.Diff(keys[:3], got); diff != "" {
			t.Errorf("the first three (-want +got):\n%s", diff)
		}
	}
}

func listWhileWriting(t *testing.T, s storage.Store) {
	keys := listKeys(t, s, "k", 1500)
	stay := map[string]bool{}
	for i, key := range keys {
		stay[key] = i%2 == 0
	}
	i := 0
	for info, err := range s.List(t.Context(), "k") {
		if err != nil {
			t.Fatal(err)
		}
		delete(stay, info.Key)
		if i%100 == 0 { // far ahead and behind
			mustDelete(t, s, keys[(i+751)/2*2%1500+1])
			create(t, s, fmt.Sprintf("%s-new", keys[i]), nil)
		}
		i++
	}
	for key, must := range stay {
		if must {
			t.Errorf("List missed %s", key)
		}
	}
}

func listWithoutStates(t *testing.T, s storage.Store) {
	create(t, s, "a", nil)
	if err := s.SetState(t.Context(), "b", []byte("value")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, listed(t, s, "")); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	expectAbsent(t, s, "b")
}
