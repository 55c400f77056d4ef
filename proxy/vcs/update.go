package vcs

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"
)

// updatedFor is how long the branches of an updated clone count as current for a download,
// which mostly follows a query for the same version.
const updatedFor = 5 * time.Second

// update updates the git directories from the host, before the go command uses them.
//
// A git directory with the whole history gets the new commits here. Otherwise the go
// command would fetch the tip of a branch without its history, which cuts the history off;
// when it needs the history later, git fetches all of it again, 200 MB for a changed line. A
// git directory without history, which is enough for releases, stays without, and only
// follows the tags of the host.
//
// A failure is not reported: then the go command fails, too, and reports it, or the clone
// has what is requested.
func (c *clone) update(ctx context.Context, j job, env []string) {
	only := ""
	if version, ok := j.taggedVersion(); ok {
		only = version
	}
	for _, gitDir := range c.gitDirs() {
		if !hasHistory(gitDir) || !j.isList() && fetchedSince(gitDir, time.Now().Add(-updatedFor)) {
			c.followTags(ctx, gitDir, env, only)
			continue
		}
		// Deleted references are removed: a branch must not be the version of a deleted
		// tag, and a branch a/b cannot be created while there is a branch a.
		_, err := c.git(ctx, gitDir, append(env, noTrace), "fetch", "-q", "--prune", "--refmap=", "--end-of-options", "origin", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
		if err != nil {
			c.log.Debug("clone not updated", "host", c.host, "err", c.redact.clean(err.Error()))
		}
	}
}

// hasHistory reports whether everything was fetched once into a git directory, and no
// history was cut off since. Only then it has branches.
func hasHistory(gitDir string) bool {
	if _, err := os.Stat(filepath.Join(gitDir, "shallow")); err == nil {
		return false
	}
	if branches, err := os.ReadDir(filepath.Join(gitDir, "refs", "heads")); err == nil && len(branches) > 0 {
		return true
	}
	packed, err := os.ReadFile(filepath.Join(gitDir, "packed-refs"))
	return err == nil && bytes.Contains(packed, []byte(" refs/heads/"))
}

// fetchedSince reports whether git has fetched into a git directory after t.
func fetchedSince(gitDir string, t time.Time) bool {
	info, err := os.Stat(filepath.Join(gitDir, "FETCH_HEAD"))
	return err == nil && info.ModTime().After(t)
}
