package vcs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The go command fetches the tip of a branch without its history first, and the
// history after that if it needs it. The branch then points to a commit without
// parents, so git forgets in between that we have the history, and gets all of it
// again. A reference of ours to the commit that was fetched before keeps that from
// happening: it is what git tells the host that it has.
const (
	keptRefs = "refs/assay"
	maxKept  = 16 // each one contains those before it, on the same branch
)

// keepCommit makes the copies of a repository remember the commit that out, of a go
// command, is about. That it cannot is no error: the next fetch takes longer.
func keepCommit(dir string, out []byte) {
	var about struct{ Origin struct{ VCS, Hash string } }
	if err := json.Unmarshal(out, &about); err != nil || about.Origin.VCS != "git" || !isHash(about.Origin.Hash) {
		return
	}
	copies, err := os.ReadDir(filepath.Join(dir, cachePart))
	if err != nil {
		return
	}
	for _, entry := range copies {
		repo := filepath.Join(dir, cachePart, entry.Name())
		if _, err := os.Stat(filepath.Join(repo, "HEAD")); err != nil {
			continue // no git directory
		}
		refs := filepath.Join(repo, filepath.FromSlash(keptRefs))
		name := filepath.Join(refs, about.Origin.Hash)
		if os.MkdirAll(refs, 0o700) == nil && os.WriteFile(name, []byte(about.Origin.Hash+"\n"), 0o600) == nil {
			forgetOldest(refs)
		}
	}
}

// isHash reports whether text is the name of a commit, SHA-1 or SHA-256.
func isHash(text string) bool {
	return (len(text) == 40 || len(text) == 64) && !strings.ContainsFunc(text, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f')
	})
}

// forgetOldest leaves the newest maxKept files in dir.
func forgetOldest(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= maxKept {
		return
	}
	age := func(e os.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return age(a).Compare(age(b)) })
	for _, entry := range entries[:len(entries)-maxKept] {
		_ = os.Remove(filepath.Join(dir, entry.Name())) // the next time tries again
	}
}
