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

// A power failure, a restored backup, or a user who frees space can leave a copy that
// git cannot read. What git and the go command then say sounds like an absence, or like
// a host that breaks off, and would go on for ever. So after a failure the copy is looked
// at, and if it is damaged it is cloned again.

var isHash = regexp.MustCompile(`^[0-9a-f]{40,64}$`)

// mend removes the copies of the repository and reports true if err may come from one
// that is damaged. It costs some milliseconds after a failure; after that of a zip, as
// long as git takes to read all of the commit.
func (r *goRun) mend(ctx context.Context, err error) bool {
	var (
		said   *reported
		status *exited
	)
	if ctx.Err() != nil || r.repo.system != "git" || !errors.As(err, &said) && !errors.As(err, &status) {
		return false
	}
	commit := ""
	if said != nil {
		commit = said.commit
	}
	why := r.damage(ctx, commit)
	if why == "" || ctx.Err() != nil {
		return false
	}
	r.source.log.Warn("clone is damaged; cloning again", "host", r.repo.url.Host, "module", r.job.what, "why", r.clean(why))
	return os.RemoveAll(filepath.Join(r.dir, filepath.FromSlash(cachePart))) == nil && clear(r.dir) == nil
}

// damage returns what is wrong with the copies, "" if nothing is that can be seen
// quickly: that they are repositories, know where they come from, and have the commits
// of all their references. Of a commit that could not be made a zip, who has it must
// have all.
func (r *goRun) damage(ctx context.Context, commit string) string {
	copies := filepath.Join(r.dir, filepath.FromSlash(cachePart))
	entries, err := os.ReadDir(copies)
	if err != nil { // nothing is there to be damaged, or the disk is at fault
		return ""
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if why := r.damageOf(ctx, filepath.Join(copies, entry.Name()), commit); why != "" {
			return why
		}
	}
	return ""
}

// damageOf is damage of one copy, a git directory.
func (r *goRun) damageOf(ctx context.Context, name, commit string) string {
	env := append(r.source.baseEnvironment(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
	checks := [][]string{{"config", "--get", "remote.origin.url"}, {"rev-list", "--quiet", "--no-walk", "--all"}}
	if isHash.MatchString(commit) {
		checks = append(checks, []string{"cat-file", "-e", commit}, []string{"archive", "--format=tar", "--output=" + os.DevNull, commit})
	}
	for _, args := range checks {
		out, err := r.source.exec(ctx, r.source.git, append([]string{"--git-dir=" + name}, args...), env, r.dir)
		var status *exited
		switch exit := errors.As(err, &status); {
		case exit && args[0] == "cat-file":
			return "" // the repository goes by two names, and the copy of the other has the commit
		case exit:
			return strings.Join(args, " ") + ": " + status.stderr
		case err != nil: // it could not be run, or was killed
			return ""
		}
		if args[0] != "config" {
			continue
		}
		origin := bytes.TrimSpace(out)
		if len(origin) == 0 {
			return "it does not know its origin"
		}
		// Beside a copy stands what it is of. If that is wrong, the go command refuses it.
		if of, err := os.ReadFile(name + ".info"); err == nil && !bytes.HasSuffix(bytes.TrimSpace(of), origin) {
			return "what stands beside it is not its origin"
		}
	}
	return ""
}
