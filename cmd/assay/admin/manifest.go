package admin

import (
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/assay-proxy/assay/internal/durable"
)

// A backup is an archive in the format of tar, or a directory with the same files, which have the
// same names as in a data directory. The last file is the manifest: a backup without it is
// incomplete.
const (
	manifestName = "backup.json"
	logDir       = "log"
	evidenceDir  = "evidence"
	tokensName   = "tokens"
)

// ofBackup reports whether a backup can have a file or a directory with the name beside its
// manifest.
func ofBackup(name string, isDir bool) bool {
	if isDir {
		return name == logDir || name == evidenceDir
	}
	return name == tokensName || filepath.Ext(name) == ".db"
}

// Manifest lists the content of a backup.
type Manifest struct {
	Format  int       `json:"format"`  // 1
	Program string    `json:"program"` // its version
	Time    time.Time `json:"time"`
	Files   []File    `json:"files"`
}

// File is a file of a backup.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Size returns the sum of the sizes of all files.
func (m Manifest) Size() (total int64) {
	for _, f := range m.Files {
		total += f.Size
	}
	return total
}

const manifestFormat = 1

// unfinishedSuffix is the suffix of a backup's name during its write.
const unfinishedSuffix = ".unfinished"

// write writes m as the manifest of the backup in dir.
func (m Manifest) write(dir string) error {
	data, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return durable.Create(filepath.Join(dir, manifestName), data, 0o600)
}
