package vcs_test

import (
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// A clone with the history of its repository fetches new commits, tags and branches, and
// nothing twice, also with lists between them. The go command alone would cut the history
// off and fetch all of it again.
func TestHistoryOnce(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	repo := w.Module("hello", hello)
	tree := repo.Git("rev-parse", "--show-toplevel")
	data := make([]byte, 2<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "data.bin"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	repo.Commit("")
	repo.Git("rm", "-q", "data.bin")
	commit := repo.Commit("-- a.go --\npackage hello\n")
	s := newSource(t, w, nil)
	query := func(what string) vcs.Info {
		t.Helper()
		info, err := s.Query(t.Context(), "corp.example/hello", what, vcs.Private)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	before := w.Sent()
	s.want("corp.example/hello", query(commit).Version)
	if sent := w.Sent() - before; sent < int64(len(data)) {
		t.Fatalf("the history of %d bytes came with %d", len(data), sent)
	}

	before = w.Sent()
	for range 2 {
		commit = repo.Commit("-- b.go --\npackage hello\n")
		s.want("corp.example/hello", query(commit).Version)
		s.want("corp.example/hello", query("main").Version)
	}
	repo.Tag("v1.1.0")
	repo.Branch("other")
	if v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private); err != nil || v.Latest.Version != "v1.1.0" {
		t.Errorf("%+v, %v", v, err)
	}
	s.want("corp.example/hello", "v1.1.0")
	commit = repo.Commit("-- c.go --\npackage hello\n")
	s.want("corp.example/hello", query(commit).Version)
	if sent := w.Sent() - before; sent > 200<<10 {
		t.Errorf("%d bytes came for a few lines", sent)
	}
}

// A tag that was deleted before it was first requested is no version, and its reference
// does not block a new one.
func TestDeletedReferences(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	query := func(query, want string) {
		t.Helper()
		if info, err := s.Query(t.Context(), "corp.example/hello", query, vcs.Private); err != nil || !strings.HasPrefix(info.Version, want) {
			t.Errorf("%s is %q, %v; want %s", query, info.Version, err, want)
		}
	}
	r.Branch("feature")
	r.Commit("-- new.go --\npackage hello\n")
	query("feature", "v1.0.1-0.") // with the history
	r.Tag("v1.1.0")
	r.Tag("sub")
	query("feature", "v1.1.0")
	r.Git("tag", "-d", "v1.1.0", "sub")
	query("feature", "v1.0.1-0.")
	s.wantError("corp.example/hello", "v1.1.0", fs.ErrNotExist)

	r.Git("checkout", "-q", "main")
	r.Git("branch", "-q", "-D", "feature")
	r.Branch("feature/x")
	r.Commit("-- other.go --\npackage hello\n")
	r.Tag("sub/v1.0.0")
	r.Tag("v1.1.0")
	query(r.Git("rev-parse", "HEAD"), "v1.1.0")
	if strings.Contains(s.log.String(), "not updated") {
		t.Error(s.log)
	}
}
