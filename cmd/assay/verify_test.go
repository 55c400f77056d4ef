package main

import (
	"archive/zip"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// A zip with bytes that no hash covers, stored by an earlier version, is reported, and deleted with
// --repair. Other objects stay.
func TestVerifyShapes(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	if _, err := z.Create("m@v1.0.0/go.mod"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	db, err := bolt.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, content := range map[string]string{
		"example.com/a/@v/v1.0.0.zip": b.String(),
		"example.com/a/@v/v1.0.1.zip": b.String() + "hidden",
		"example.com/a/@v/v1.0.1.mod": "hidden",
	} {
		if err := db.Create(t.Context(), storage.Info{Key: key, Size: int64(len(content))}, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	const found = "example.com/a/@v/v1.0.1.zip: zip file is not in the form that Go writes"
	var out strings.Builder
	if err := verify(t.Context(), dir, false, &out, io.Discard); err == nil || !strings.Contains(out.String(), "damaged: "+found) {
		t.Errorf("verify = %v, %q", err, &out)
	}
	out.Reset()
	if err := verify(t.Context(), dir, true, &out, io.Discard); err != nil || !strings.Contains(out.String(), "repaired: "+found) {
		t.Errorf("verify --repair = %v, %q", err, &out)
	}
	out.Reset()
	if err := verify(t.Context(), dir, false, &out, io.Discard); err != nil || !strings.HasPrefix(out.String(), "verified 2 objects") {
		t.Errorf("verify afterwards = %v, %q", err, &out)
	}
}
