package vcs

import (
	"context"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"
)

const (
	// tagsTime bounds the question for the tags of a host. When it is over the copy
	// answers, as it does for a host that is down.
	tagsTime = 20 * time.Second

	// tagsAtOnce is how many tags one git command removes.
	tagsAtOnce = 500
)

// followTags removes those tags from a copy that its host has elsewhere, or has no more.
// The go command takes a tag that is in the copy for what it is, without a look at the
// host, so that a tag which was moved before anyone asked for its version would be pinned
// at its old commit, and one that was put right again would stay wrong here. What was
// pinned is protected by our log, not by the copy.
//
// A host that does not answer, or says that there is no such repository, changes nothing.
func (r *goRun) followTags(ctx context.Context, copied string, env []string) {
	have, err := r.tags(ctx, env, "--git-dir="+copied, "for-each-ref", "--format=%(objectname) %(refname)", "refs/tags")
	if err != nil || len(have) == 0 || !r.needsTags(have) {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, tagsTime, context.DeadlineExceeded)
	defer cancel()
	now, err := r.tags(ctx, env, "--git-dir="+copied, "ls-remote", "--tags", "--refs", "-q", "--end-of-options", "origin")
	if err != nil {
		r.source.log.Debug("tags of a repository not compared", "host", r.repo.url.Host, "err", r.clean(err.Error()))
		return
	}
	var moved []string
	for tag, object := range have {
		if now[tag] != object {
			moved = append(moved, tag)
		}
	}
	for some := range slices.Chunk(moved, tagsAtOnce) {
		args := append([]string{"--git-dir=" + copied, "tag", "-d", "--"}, some...)
		if _, err := r.source.exec(ctx, r.source.git, args, append(env, "GIT_TRACE2_EVENT=0"), r.dir); err != nil {
			r.source.log.Warn("tags that have moved cannot be removed from the copy of a repository", "host", r.repo.url.Host, "err", r.clean(err.Error()))
		}
	}
}

// needsTags reports whether what the go command will do depends on the tags of the copy,
// which are these: everything does, but the download of a release whose tag is not among
// them, for which it asks the host itself.
func (r *goRun) needsTags(have map[string]string) bool {
	_, version, _ := strings.Cut(r.job.what, "@")
	if r.job.args[0] != "mod" || module.IsPseudoVersion(version) {
		return true
	}
	version = strings.TrimSuffix(version, "+incompatible")
	for tag := range have {
		if path.Base(tag) == version { // of a module below the root it has a prefix
			return true
		}
	}
	return false
}

// tags runs a git command that prints objects and references, one pair a line, and
// returns the object of each tag.
func (r *goRun) tags(ctx context.Context, env []string, args ...string) (map[string]string, error) {
	out, err := r.source.exec(ctx, r.source.git, args, append(env, "GIT_TRACE2_EVENT=0"), r.dir)
	if err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) == 2 {
			if tag, ok := strings.CutPrefix(fields[1], "refs/tags/"); ok {
				tags[tag] = fields[0]
			}
		}
	}
	return tags, nil
}

// copyDirs returns the names of the git directories in a copy.
func (r *goRun) copyDirs() []string {
	heads, _ := filepath.Glob(filepath.Join(r.dir, filepath.FromSlash(cachePart), "*", "HEAD")) // the pattern is well-formed
	for i := range heads {
		heads[i] = filepath.Dir(heads[i])
	}
	return heads
}
