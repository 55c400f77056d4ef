package vcs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A power failure, a restored backup, or a user who frees space can leave a clone that git
// cannot read. What git and the go command then report looks like an absence, or like a
// host that interrupts transfers, and would not end. So after a failure the clone is
// checked, and if it is damaged it is removed and cloned again.

var isHash = regexp.MustCompile(`^[0-9a-f]{40,64}$`)

// repair removes the git directories, and reports true, if err may come from a damaged
// one. It takes some milliseconds after a failure; after that of a zip, as long as git
// takes to read all of the commit.
func (c *clone) repair(ctx context.Context, j job, err error) bool {
	var (
		said   *reported
		status *exited
	)
	if ctx.Err() != nil || !errors.As(err, &said) && !errors.As(err, &status) {
		return false
	}
	commit := ""
	if said != nil {
		commit = said.commit
	}
	why := c.damage(ctx, commit)
	if why == "" || ctx.Err() != nil {
		return false
	}
	c.log.Warn("clone is damaged; cloning again", "host", c.host, "module", j.what, "why", c.redact.clean(why))
	return c.remove() == nil && clear(c.dir) == nil
}

// damage returns the damage of the git directories that can be found quickly, "" if there
// is none: they must be repositories, know their origin, and have the commits of all
// references. A commit of which no zip could be made must be complete.
func (c *clone) damage(ctx context.Context, commit string) string {
	entries, err := os.ReadDir(c.gits())
	if err != nil { // nothing is there, or the disk fails
		return ""
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if why := c.damageOf(ctx, filepath.Join(c.gits(), entry.Name()), commit); why != "" {
			return why
		}
	}
	return ""
}

// damageOf is damage of one git directory.
func (c *clone) damageOf(ctx context.Context, gitDir, commit string) string {
	env := append(c.programs.home.environment(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
	checks := [][]string{{"config", "--get", "remote.origin.url"}, {"rev-list", "--quiet", "--no-walk", "--all"}}
	if isHash.MatchString(commit) {
		checks = append(checks, []string{"cat-file", "-e", commit}, []string{"archive", "--format=tar", "--output=" + os.DevNull, commit})
	}
	for _, args := range checks {
		out, err := c.git(ctx, gitDir, env, args...)
		var status *exited
		switch exit := errors.As(err, &status); {
		case exit && args[0] == "cat-file":
			return "" // the repository has two URLs, and the other git directory has the commit
		case exit:
			return strings.Join(args, " ") + ": " + status.stderr
		case err != nil: // git could not be run, or was killed
			return ""
		}
		if args[0] != "config" {
			continue
		}
		origin := bytes.TrimSpace(out)
		if len(origin) == 0 {
			return "it does not know its origin"
		}
		// The file beside a git directory names its origin. If it is wrong, the go command
		// refuses the git directory.
		if of, err := os.ReadFile(gitDir + ".info"); err == nil && !bytes.HasSuffix(bytes.TrimSpace(of), origin) {
			return "what stands beside it is not its origin"
		}
	}
	return ""
}
