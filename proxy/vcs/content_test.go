package vcs_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// Attributes in a repository change nothing: the zip has the same hashed bytes as that of
// the go command. Links and submodules are left out and not fetched; a pointer of git-lfs
// stays a pointer.
func TestContent(t *testing.T) {
	t.Parallel()
	const path, version = vcstest.GitHost + "/strange.git", "v1.0.0"
	w := vcstest.New(t)
	r := w.Repo("strange")
	commit := r.Commit(`-- go.mod --
module ` + path + `
-- .gitattributes --
*.txt export-subst
secret.txt export-ignore
*.crlf text eol=crlf
*.bin filter=lfs diff=lfs merge=lfs -text
-- version.txt --
$Format:%H$
-- secret.txt --
not in an archive
-- lines.crlf --
a
b
-- big.bin --
version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
-- Case/Case.go --
package Case
-- dir with space/a.go --
package a
-- ünïcode/b.go --
package b
-- nested/go.mod --
module ` + path + `/nested
-- vendor/example.com/v/v.go --
package v
`)
	r.Git("update-index", "--add", "--cacheinfo", "120000,"+r.Git("rev-parse", "HEAD:go.mod")+",link.go")
	r.Git("update-index", "--add", "--cacheinfo", "160000,"+commit+",sub")
	r.Git("commit", "-q", "-m", "links")
	r.Tag(version)

	_, data, err := newSource(t, w, nil).download(path, version)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "zip")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := dirhash.HashZip(file, dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	if want := direct(t, filepath.Dir(r.Dir()), path, version); got != want {
		t.Errorf("the zip is %s, the go command makes %s", got, want)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range z.File {
		names = append(names, strings.TrimPrefix(f.Name, path+"@"+version+"/"))
	}
	slices.Sort(names)
	want := []string{".gitattributes", "Case/Case.go", "big.bin", "dir with space/a.go", "go.mod", "lines.crlf", "secret.txt", "version.txt", "ünïcode/b.go"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("the zip has (-want +got):\n%s", diff)
	}
}

// direct returns the h1 hash of the zip that a go command makes which reads the
// repositories in a directory itself.
func direct(t *testing.T, repos, path, version string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "-modcacherw", path+"@"+version)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=direct", "GOSUMDB=off", "GOFLAGS=", "GOTOOLCHAIN=local", "GOMODCACHE="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url."+repos+"/.insteadOf", "GIT_CONFIG_VALUE_0=https://"+vcstest.GitHost+"/")
	out, err := cmd.Output()
	var got struct{ Sum, Error string }
	if err := json.Unmarshal(out, &got); err != nil || got.Sum == "" {
		t.Fatalf("%v\n%s", err, out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return got.Sum
}
