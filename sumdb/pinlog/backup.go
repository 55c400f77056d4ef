package pinlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// BackupMark is the name of a file in the directory of a log that is in every backup of
// it. A log beside this file signs nothing before it is adopted, in whatever way the
// backup was put back.
const BackupMark = "restored"

// BackupFiles returns the names of the files in the directory dir of a log that a backup
// needs, in the order in which they are to be copied while a process may append: the
// file of entries is the last one, so the copy has the entries of every head in it. Of a
// file that grows meanwhile, the beginning is enough.
//
// The guards are not among them. They are about files that the copy does not have.
func BackupFiles(dir string) (names []string, err error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "cut-") && f.Type().IsRegular() {
			names = append(names, f.Name())
		}
	}
	for _, name := range []string{"key", "key.pub", "frozen", "head", "heads", "entries"} {
		if exists(filepath.Join(dir, name)) {
			names = append(names, name)
		}
	}
	return names, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// NameOf returns the name of the log in the directory dir. The error is fs.ErrNotExist if
// there is none.
func NameOf(dir string) (string, error) {
	key, err := readPublicKey(location{dir: dir})
	if err != nil {
		return "", err
	}
	return key.name(), nil
}
