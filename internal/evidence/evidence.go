// Package evidence records what an upstream or a database did wrong, in text files. The
// administrator reads them and moves them away.
package evidence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-proxy/assay/internal/durable"
)

// Most is how many files of a kind Keep writes, so that neither a client that retries nor
// an upstream that sends other content each time can fill the disk.
const Most = 1000

// Evidence has names of private modules, so only the user that runs the program can read
// it.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Dir is a directory of evidence. It is created when needed. Nothing can be written to
// the empty Dir.
type Dir string

// Path returns the path of the file of a kind with a name: KIND-NAME.txt.
func (d Dir) Path(kind, name string) string {
	return filepath.Join(string(d), kind+"-"+name+".txt")
}

// Keep writes text into a new file of a kind, and returns its path. An existing file
// stays as it is. After an error there is no new file. It is an error if there are Most
// files of the kind.
func (d Dir) Keep(kind, name, text string) (path string, err error) {
	path = d.Path(kind, name)
	if _, err := os.Lstat(path); err == nil && d != "" {
		return path, nil
	}
	if err := d.create(); err != nil {
		return "", err
	}
	if err := d.checkRoom(kind); err != nil {
		return "", err
	}
	err = durable.Create(path, []byte(text), fileMode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return path, nil
}

// Write makes text the content of a file of a kind. An error may leave an incomplete
// file: unlike Keep, Write is for evidence whose file has a meaning by its name alone. A
// later Write completes it.
func (d Dir) Write(kind, name, text string) error {
	if err := d.create(); err != nil {
		return err
	}
	f, err := os.OpenFile(d.Path(kind, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close(), durable.SyncDir(string(d)))
}

// Clear gives a file of a kind another name, which ends in .cleared: an administrator has looked at it, and its old
// name means something. It is no error if there is no such file.
func (d Dir) Clear(kind, name string) error {
	path := d.Path(kind, name)
	if err := os.Rename(path, path+".cleared"); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return durable.SyncDir(string(d))
}

func (d Dir) create() error {
	if d == "" {
		return errors.New("no directory for evidence")
	}
	return durable.MakeDir(string(d), dirMode)
}

// checkRoom returns an error if there are Most files of a kind.
func (d Dir) checkRoom(kind string) error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err
	}
	kept := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), kind+"-") {
			kept++
		}
	}
	if kept >= Most {
		return fmt.Errorf("there are %d evidence files of this kind already; move them away", kept)
	}
	return nil
}
