package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// program is a real program.
type program struct {
	dir      string     // its files
	commands [][]string // go commands that measures run, besides go mod download
}

// recorded is a program with an upstream that has what the go command requests for it.
type recorded struct {
	program
	store *replay
	sums  string // its go.sum
}

// recordings are the programs that have been recorded.
type recordings struct {
	b     *bench
	known map[string]*recorded // by directory
}

// of returns the recording of a program. The first time, the go command downloads the modules from
// the public mirror.
func (r *recordings) of(p program) (*recorded, error) {
	if known := r.known[p.dir]; known != nil {
		return known, nil
	}
	if p.dir == "" {
		return nil, absent("a program to record")
	}
	project, err := r.b.newProject(p.dir, "")
	if err != nil {
		return nil, err
	}
	if _, err := r.b.goCommand(project, "", "", "mod", "download"); err != nil {
		return nil, err
	}
	files := filepath.Join(project, "mod", "cache", "download")
	mods, err := hashes(files)
	if err != nil {
		return nil, err
	}
	for _, command := range p.commands {
		other, err := r.b.newProject(p.dir, goSum(mods))
		if err != nil {
			return nil, err
		}
		if err := os.Symlink(filepath.Join(project, "mod"), filepath.Join(other, "mod")); err != nil {
			return nil, err
		}
		if _, err := r.b.goCommand(other, "", "", command...); err != nil {
			return nil, err
		}
	}
	store, err := newReplay(&host{dir: r.b.dir}, files)
	if err != nil {
		return nil, err
	}
	r.known[p.dir] = &recorded{program: p, store: store, sums: goSum(mods)}
	return r.known[p.dir], nil
}

// newProject copies the files of a program into a new directory, with this go.sum.
func (m *machine) newProject(files, sums string) (string, error) {
	dir, err := m.newDir()
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, os.DirFS(files)); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "go.sum"), []byte(sums), 0o644)
}

// goCommand runs a go command in a directory with a go.mod, with a module cache of its own below it,
// and returns the seconds it took. An empty goproxy or key is the go command's default.
func (m *machine) goCommand(dir, goproxy, key string, args ...string) (float64, error) {
	cmd := exec.CommandContext(m.ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOENV=off", "GOFLAGS=-modcacherw -trimpath -buildvcs=false", "GOPROXY="+goproxy, "GOSUMDB="+key, "GOPRIVATE=", "GONOPROXY=", "GONOSUMDB=",
		"GOTOOLCHAIN=local", "GOWORK=off", "GOPATH="+filepath.Join(dir, "path"), "GOMODCACHE="+filepath.Join(dir, "mod"))
	begin := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go %s: %w\n%.2000s", cmp.Or(args...), err, out)
	}
	return time.Since(begin).Seconds(), nil
}
