package storage_test

import (
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
)

func TestKeyOfPath(t *testing.T) {
	t.Parallel()
	deep := "example.com" + strings.Repeat("/abcdefghi", 62) // 631 bytes
	wide := "example.com/" + strings.Repeat("w", 256)
	for _, path := range []string{
		"a", "example.com/a/@v/v1.0.0.zip", "sumdb/sum.golang.org/tile/8/0/x001/234",
		deep + "/@v/v1.0.0.zip", deep + "/12345678/" + strings.Repeat("n", 255), strings.Repeat("n", 255), wide[:12+255] + "/@latest",
	} {
		if key := storage.Key(path); key != path {
			t.Errorf("Key(%q) = %q, want the path itself", path, key)
		}
	}
	for _, path := range []string{
		deep + "/123456789/v1.0.0.zip", deep + deep + "/@v/v1.0.0.zip", "sumdb/sum.golang.org/lookup/" + deep + "@v1.0.0",
		wide + "/@v/v1.0.0.zip", "example.com/a/@v/v1.0.0-" + strings.Repeat("p", 300) + ".zip", "example.com/a/" + strings.Repeat("é", 200),
		strings.Repeat("漢", 2000), strings.Repeat(wide+"/", 8) + "name",
	} {
		key := storage.Key(path)
		if err := storage.CheckKey(key); err != nil || key == path {
			t.Errorf("Key(%q) = %q, %v, want another one that a store can have", path, key, err)
		}
		if again := storage.Key(key); again != key {
			t.Errorf("Key(Key(%q)) = %q, want %q", path, again, key)
		}
		if first := path[:strings.IndexByte(path+"/", '/')]; len(first) <= 255 && !strings.HasPrefix(key, first+"/") {
			t.Errorf("Key(%q) = %q does not begin with %q", path, key, first)
		}
	}
	if key := storage.Key("example.com/a/@v/v1.0.0-" + strings.Repeat("p", 300) + ".zip"); !strings.HasPrefix(key, "example.com/a/@v/v1.0.0-ppp") || !strings.HasSuffix(key, ".zip") {
		t.Errorf("%q does not show which version it is a zip of", key)
	}
}

// Two paths have one key only if they are the same, and a prefix lists its directory.
func FuzzKey(f *testing.F) {
	deep := strings.Repeat("/abcdefghi", 70)
	for _, dir := range []string{"a", "example.com" + deep, strings.Repeat("w", 300), "sumdb/x/" + strings.Repeat("é", 600), ""} {
		f.Add(dir, "v1.0.0.zip", dir+"x", "v1.0.0.zip")
		f.Add(dir, "v1.0.0.zip", dir, strings.Repeat("v", 300)+".zip")
	}
	f.Fuzz(func(t *testing.T, dir, name, otherDir, otherName string) {
		path, other := dir+"/"+name, otherDir+"/"+otherName
		key := storage.Key(path)
		if upper := strings.ContainsAny(path+other, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"); !upper && path != other && key == storage.Key(other) {
			t.Errorf("Key(%q) = Key(%q) = %q", path, other, key)
		}
		if !strings.Contains(name, "/") && len(name) <= 255 && dir != "" && storage.Prefix(dir)+name != key {
			t.Errorf("Prefix(%q) = %q, but Key(%q) = %q", dir, storage.Prefix(dir), path, key)
		}
		clean := storage.CheckKey(strings.ReplaceAll(dir+"/"+name, "/", "")) // whether other errors remain does not depend on lengths
		if len(path) <= storage.MaxComponent && clean == nil && key != path {
			t.Errorf("Key(%q) = %q", path, key)
		}
	})
}
