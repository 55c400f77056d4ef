package vcs

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
)

// tagsAtOnce is how many tags one git command removes.
const tagsAtOnce = 500

// noTrace keeps our own git commands out of the trace of a run.
const noTrace = "GIT_TRACE2_EVENT=0"

// followTags removes from a git directory those tags that the host has at another commit,
// or has no more. The go command uses a tag in the clone without asking the host, so a tag
// that moved before its version was first requested would be pinned at its old commit, and
// one that was corrected would stay wrong here. Pinned versions are protected by the own
// log, not by the clone. If only is not "", only tags that end with it are compared: for a
// tag that the clone does not have, the go command asks the host.
//
// If the host does not answer, or says that there is no such repository, nothing changes.
func (c *clone) followTags(ctx context.Context, gitDir string, env []string, only string) {
	have, err := c.tags(ctx, gitDir, env, "for-each-ref", "--format=%(objectname) %(refname)", "refs/tags")
	if err != nil {
		return // a damaged clone: the go command fails, too, and the clone is repaired
	}
	list := []string{"ls-remote", "--tags", "--refs", "-q", "--end-of-options", "origin"}
	if only != "" {
		maps.DeleteFunc(have, func(tag, _ string) bool { return path.Base(tag) != only })
		for tag := range have {
			list = append(list, "refs/tags/"+tag)
		}
	}
	if len(have) == 0 {
		return
	}
	now, err := c.tags(ctx, gitDir, env, list...)
	if err != nil {
		c.log.Debug("tags of clone not compared", "host", c.host, "err", c.redact.clean(err.Error()))
		return
	}
	maps.DeleteFunc(have, func(tag, object string) bool { return now[tag] == object })
	c.dropTags(ctx, gitDir, env, slices.Sorted(maps.Keys(have)))
}

// dropTags removes tags from a git directory, or if that fails all git directories.
func (c *clone) dropTags(ctx context.Context, gitDir string, env []string, tags []string) {
	for some := range slices.Chunk(tags, tagsAtOnce) {
		_, err := c.git(ctx, gitDir, append(env, noTrace), append([]string{"tag", "-d", "--"}, some...)...)
		if err == nil || ctx.Err() != nil {
			continue
		}
		c.log.Warn("moved tags cannot be removed from clone; cloning again", "host", c.host, "err", c.redact.clean(err.Error()))
		_ = c.remove() // if something is left, it is damaged, which is noticed
		return
	}
}

// tags runs a git command that prints objects and references, one pair in each line, and
// returns the object of each tag.
func (c *clone) tags(ctx context.Context, gitDir string, env []string, args ...string) (map[string]string, error) {
	out, err := c.git(ctx, gitDir, append(env, noTrace), args...)
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
