package daemon

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// loadFunc reads the settings.
type loadFunc = func() (config.Config, config.Sources, error)

// offlineIfReadOnly wraps load so that the setting read-only implies offline: a fetched object
// could not be stored.
func offlineIfReadOnly(load loadFunc) loadFunc {
	return func() (config.Config, config.Sources, error) {
		c, from, err := load()
		if err == nil && c.ReadOnly {
			c.Upstream, c.VCS = "off", "off"
			from["upstream"], from["vcs"] = "read-only", "read-only"
		}
		return c, from, err
	}
}

// openScratch returns the directory for scratch files, and a function that removes it at the end.
func openScratch(c config.Config) (dir string, remove func() error, err error) {
	if !c.ReadOnly {
		return filepath.Join(c.Data, "spool"), func() error { return nil }, nil
	}
	dir, err = os.MkdirTemp("", "assay-scratch-")
	if err != nil {
		return "", nil, fmt.Errorf("with read-only, zips of private modules are checked in a temporary directory: %w; set TMPDIR to one", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

// evidenceDir returns the directory for evidence, "" if Assay may not write.
func evidenceDir(c config.Config) string {
	if c.ReadOnly {
		return ""
	}
	return filepath.Join(c.Data, "evidence")
}
