package vcs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
)

// home is the directory of a Source: what every command uses, beside the clones.
type home struct {
	dir    string // absolute
	caFile string // see guard.Config
	roots  string // file with the certificate authorities for git, "" for its own

	preparing sync.Mutex
}

// user is the home directory of commands.
func (h *home) user() string { return filepath.Join(h.dir, "home") }

// clones is where the clones are.
func (h *home) clones() string { return filepath.Join(h.dir, "repos") }

// goCache is the GOCACHE of all commands.
func (h *home) goCache() string { return filepath.Join(h.user(), "gocache") }

// empty is where commands run: there must be no go.mod in it or above it that has an
// effect.
func (h *home) empty() string { return filepath.Join(h.dir, "empty") }

// writeRoots writes the certificate authorities for git.
func (h *home) writeRoots() (err error) {
	h.roots, err = writeRoots(h.dir, h.caFile)
	return err
}

// prepare creates what is missing: the administrator may have removed files to free space.
func (h *home) prepare() error {
	h.preparing.Lock()
	defer h.preparing.Unlock()
	telemetry := filepath.Join(h.user(), ".config", "go", "telemetry")
	for _, dir := range []string{telemetry, h.empty(), h.clones()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("directory for version control: %w", err)
		}
	}
	if _, err := os.Stat(h.roots); h.roots != "" && errors.Is(err, fs.ErrNotExist) {
		if _, err := writeRoots(h.dir, h.caFile); err != nil {
			return fmt.Errorf("directory for version control: %w", err)
		}
	}
	// Unless this file exists before its first run, the go command counts its own use, in
	// a process that leaves our process group.
	mode := filepath.Join(telemetry, "mode")
	if data, err := os.ReadFile(mode); err == nil && string(data) == "off\n" {
		return nil
	}
	if err := os.WriteFile(mode, []byte("off\n"), 0o600); err != nil {
		return fmt.Errorf("directory for version control: %w", err)
	}
	return nil
}

// environment is what any program needs to run at all.
func (h *home) environment() []string {
	env := []string{"HOME=" + h.user(), "XDG_CONFIG_HOME=" + filepath.Join(h.user(), ".config"), "LANG=C", "LC_ALL=C"}
	names := []string{"PATH"}
	if runtime.GOOS == "windows" {
		names = append(names, "SYSTEMROOT", "PATHEXT", "COMSPEC")
	}
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
