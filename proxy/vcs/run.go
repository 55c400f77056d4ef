package vcs

import (
	"log/slog"
	"path/filepath"
)

// run is one run of the go command, in a clone.
type run struct {
	target   target
	clone    *clone
	programs *programs
	proxy    *gitProxy
	ssh      *sshClient
	asker    *asker
	systems  []string // that the go command may use
	log      *slog.Logger
}

// trace is the file to which each git of the run adds its events.
func (r *run) trace() string { return filepath.Join(r.clone.dir, "trace") }

func (r *run) temp() string { return filepath.Join(r.clone.dir, "tmp") }
