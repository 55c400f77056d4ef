package vcs

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"
)

// aheadFor is how long the branches of a copy that was updated count as such for a
// download, which mostly follows a question about the same version.
const aheadFor = 5 * time.Second

// update brings the copies of the repository in line with its host, before the go command
// looks at them.
//
// Copies that have the whole history get what is new here. Else the go command would
// fetch the tip of a branch without its history; that cuts the history off in the copy,
// and when the go command needs it after all, git gets all of it again, 200 MB of them
// for a changed line. A copy without history, as releases need it, stays without, and
// only follows the tags of the host.
//
// A failure is no error: then the go command fails too, and says why, or the copy has
// what is asked for.
func (r *goRun) update(ctx context.Context, env []string) {
	if r.repo.system != "git" {
		return
	}
	for _, copied := range r.copyDirs() {
		if !hasHistory(copied) || r.job.args[0] == "mod" && fetchedSince(copied, time.Now().Add(-aheadFor)) {
			r.followTags(ctx, copied, env)
			continue
		}
		// What was deleted goes: else a branch would be the version of a tag that is no
		// more, and a/b could never come where a was.
		args := []string{"--git-dir=" + copied, "fetch", "-q", "--prune", "--refmap=", "--end-of-options", "origin", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"}
		_, err := r.source.exec(ctx, r.source.git, args, append(env, "GIT_TRACE2_EVENT=0"), r.dir)
		if err != nil {
			r.source.log.Debug("clone not updated", "host", r.repo.url.Host, "err", r.clean(err.Error()))
		}
	}
}

// hasHistory reports whether dir is a git repository to which everything was fetched
// once, and from which nothing was cut off since. Only then it has branches.
func hasHistory(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, "shallow")); err == nil {
		return false
	}
	if branches, err := os.ReadDir(filepath.Join(dir, "refs", "heads")); err == nil && len(branches) > 0 {
		return true
	}
	packed, err := os.ReadFile(filepath.Join(dir, "packed-refs"))
	return err == nil && bytes.Contains(packed, []byte(" refs/heads/"))
}

// fetchedSince reports whether git has fetched into dir after t.
func fetchedSince(dir string, t time.Time) bool {
	info, err := os.Stat(filepath.Join(dir, "FETCH_HEAD"))
	return err == nil && info.ModTime().After(t)
}
