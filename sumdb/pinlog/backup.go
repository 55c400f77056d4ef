package pinlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// BackupMark is the name of a file in the directory of a log that every backup of it contains. A
// log beside this file signs nothing until it is adopted, no matter how the backup was restored.
const BackupMark = "restored"

// BackupFiles returns the names of the files in the directory dir of a log that a backup needs, in
// the order in which to copy them while a process may append: the file of entries is last, so the
// copy contains the entries of every head. If a file grows meanwhile, it is enough to copy its
// beginning.
//
// The guards are not among them: they describe files that the copy does not contain. The mark of Move is: a copy of
// a log that is in a bucket is not adopted.
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
	for _, name := range []string{movedMark, "key", movedKey, "key.pub", "frozen", "head", "heads", "entries"} {
		if exists(filepath.Join(dir, name)) {
			names = append(names, name)
		}
	}
	return names, nil
}
