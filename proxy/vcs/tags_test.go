package vcs_test

import (
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// taggings are ways to tag the newest commit, whether the tag exists or not.
var taggings = map[string]func(r *vcstest.Repo, tag string){
	"lightweight": func(r *vcstest.Repo, tag string) { r.Tag(tag) },
	"annotated":   func(r *vcstest.Repo, tag string) { r.Git("tag", "-f", "-a", "-m", "release", tag) },
}

// A version is the commit that its tag has when it is requested, whatever the clone has,
// also if the tag moves back.
func TestMovedTag(t *testing.T) {
	t.Parallel()
	for name, tag := range taggings {
		for _, history := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := vcstest.New(t)
				r := w.Module("hello", hello)
				tag(r, "v1.0.0")
				s := newSource(t, w, nil)
				if history { // then the clone has it
					r.Branch("dev")
					query(s, r.Commit("-- dev.go --\npackage hello\n"))
				}
				first := r.Git("rev-parse", "v1.0.0^{}")
				wantCommit(s, "v1.0.0", first)
				second := r.Commit("-- new.go --\npackage hello\n")
				tag(r, "v1.0.0")
				wantCommit(s, "v1.0.0", second)
				r.Git("tag", "-f", "v1.0.0", first)
				wantCommit(s, "v1.0.0", first)
			})
		}
	}
}

func query(s *source, what string) vcs.Info {
	s.t.Helper()
	info, err := s.Query(s.t.Context(), "corp.example/hello", what, vcs.Private)
	if err != nil {
		s.t.Fatal(err)
	}
	return info
}

func wantCommit(s *source, version, commit string) {
	s.t.Helper()
	if files := s.want("corp.example/hello", version); files.Origin.Hash != commit || !strings.Contains(string(files.Info), commit) {
		s.t.Errorf("%s is %+v, want the commit %s", version, files.Origin, commit)
	}
}

// A list of a module fetches its tags into the clone. A tag that moves later, before its
// version is first requested, is followed.
func TestMovedTagBeforeAsked(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	latest := func() string {
		t.Helper()
		v, err := s.Versions(t.Context(), "corp.example/hello", vcs.Private)
		if err != nil {
			t.Fatal(err)
		}
		return v.Latest.Origin.Hash
	}
	if got := latest(); got != r.Git("rev-parse", "v1.0.0") {
		t.Errorf("latest is at %s", got)
	}
	r.Tag("release")
	query(s, "release")
	second := r.Commit("-- new.go --\npackage hello\n")
	r.Tag("v1.0.0")
	r.Tag("release")
	wantCommit(s, "v1.0.0", second)
	third := r.Commit("-- newer.go --\npackage hello\n")
	r.Tag("v1.0.0")
	r.Tag("release")
	if got := latest(); got != third {
		t.Errorf("latest is at %s, want %s", got, third)
	}
	for _, what := range []string{"v1.0.0", "release"} {
		if info := query(s, what); info.Origin.Hash != third {
			t.Errorf("%s is %+v, want the commit %s", what, info.Origin, third)
		}
	}
}

// The tags of a module below the root begin with its directory.
func TestMovedTagBelowRoot(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	r.Commit("-- sub/go.mod --\nmodule corp.example/hello/sub\n-- sub/sub.go --\npackage sub\n")
	r.Tag("sub/v1.0.0")
	w.Page("hello/sub", "corp.example/hello git "+r.URL())
	s := newSource(t, w, nil)
	s.want("corp.example/hello/sub", "v1.0.0")
	now := r.Commit("-- sub/new.go --\npackage sub\n")
	r.Tag("sub/v1.0.0")
	if files := s.want("corp.example/hello/sub", "v1.0.0"); files.Origin.Hash != now {
		t.Errorf("%+v, want the commit %s", files.Origin, now)
	}
}

// A deleted tag is no version, even if the clone still has it. A host that is down removes
// no tags.
func TestDeletedTag(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	r := w.Module("hello", hello)
	s := newSource(t, w, nil)
	s.want("corp.example/hello", "v1.0.0")
	w.Status(http.StatusServiceUnavailable)
	s.want("corp.example/hello", "v1.0.0")
	w.Status(0)
	r.Git("tag", "-d", "v1.0.0")
	s.wantError("corp.example/hello", "v1.0.0", fs.ErrNotExist)
	if strings.Contains(s.log.String(), "made anew") {
		t.Error(s.log)
	}
}
