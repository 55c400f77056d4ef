package vcs

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
)

// clone is the directory of one repository, while a command works in it.
type clone struct {
	programs *programs
	dir      string // GOMODCACHE of the go command
	host     string // of the repository, in the log
	redact   *redactor
	log      *slog.Logger
}

// gits returns the directory of git directories. The go command creates one for each URL.
func (c *clone) gits() string { return filepath.Join(c.dir, filepath.FromSlash(cachePart)) }

// gitDirs returns the names of the git directories.
func (c *clone) gitDirs() []string {
	heads, _ := filepath.Glob(filepath.Join(c.gits(), "*", "HEAD")) // the pattern is well-formed
	for i := range heads {
		heads[i] = filepath.Dir(heads[i])
	}
	return heads
}

// git runs git in a git directory.
func (c *clone) git(ctx context.Context, gitDir string, env []string, args ...string) ([]byte, error) {
	return c.programs.run(ctx, command{program: c.programs.git, args: append([]string{"--git-dir=" + gitDir}, args...), env: env, dir: c.dir})
}

// remove removes the git directories.
func (c *clone) remove() error { return os.RemoveAll(c.gits()) }
