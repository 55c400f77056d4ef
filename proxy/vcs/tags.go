package vcs

import (
	"context"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/module"
)

// tagsAtOnce is how many tags one git command removes.
const tagsAtOnce = 500

// followTags removes those tags from a copy that its host has elsewhere, or has no more.
// The go command takes a tag that is in the copy for what it is, without a look at the
// host, so that a tag which was moved before anyone asked for its version would be pinned
// at its old commit, and one that was put right again would stay wrong here. What was
// pinned is protected by our log, not by the copy.
//
// A host that does not answer, or says that there is no such repository, changes nothing.
func (r *goRun) followTags(ctx context.Context, copied string, env []string) {
	have, err := r.tags(ctx, env, "--git-dir="+copied, "for-each-ref", "--format=%(objectname) %(refname)", "refs/tags")
	if err != nil {
		return // a damaged copy: the go command fails too, and it is cloned again
	}
	list := []string{"--git-dir=" + copied, "ls-remote", "--tags", "--refs", "-q", "--end-of-options", "origin"}
	if version, ok := r.release(); ok {
		// For another tag than those in the copy the go command asks the host itself.
		maps.DeleteFunc(have, func(tag, _ string) bool { return path.Base(tag) != version })
		for tag := range have {
			list = append(list, "refs/tags/"+tag)
		}
	}
	if len(have) == 0 {
		return
	}
	now, err := r.tags(ctx, env, list...)
	if err != nil {
		r.source.log.Debug("tags of clone not compared", "host", r.repo.url.Host, "err", r.clean(err.Error()))
		return
	}
	maps.DeleteFunc(have, func(tag, object string) bool { return now[tag] == object })
	r.dropTags(ctx, copied, env, slices.Sorted(maps.Keys(have)))
}

// dropTags removes tags from a copy, or else the copy.
func (r *goRun) dropTags(ctx context.Context, copied string, env []string, tags []string) {
	for some := range slices.Chunk(tags, tagsAtOnce) {
		args := append([]string{"--git-dir=" + copied, "tag", "-d", "--"}, some...)
		_, err := r.source.exec(ctx, r.source.git, args, append(env, "GIT_TRACE2_EVENT=0"), r.dir)
		if err == nil || ctx.Err() != nil {
			continue
		}
		r.source.log.Warn("moved tags cannot be removed from clone; cloning again", "host", r.repo.url.Host, "err", r.clean(err.Error()))
		_ = os.RemoveAll(filepath.Join(r.dir, filepath.FromSlash(cachePart))) // what is left is damaged, and found to be
		return
	}
}

// release returns the version, as a tag has it at its end, if the run is the download of
// one that has a tag.
func (r *goRun) release() (version string, ok bool) {
	_, version, _ = strings.Cut(r.job.what, "@")
	ok = !r.isList() && !module.IsPseudoVersion(version)
	return strings.TrimSuffix(version, "+incompatible"), ok
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
