package pinlog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/sumdb"
)

// movedMark is the name of a file in the directory of a log that Move has brought to a bucket: it says where
// to. BackupMark is beside it, for earlier versions of this program.
const movedMark = "moved"

// movedKey is the name of the file with the key in such a directory. An earlier version of this program, which does not
// know the mark, finds entries without a key: it signs nothing, adopts nothing, and begins no log there.
const movedKey = "key.moved"

// keyPath returns the path of the file with the key.
func (l location) keyPath() string {
	if !exists(l.path("key")) && exists(l.path(movedKey)) && exists(l.path(movedMark)) {
		return l.path(movedKey)
	}
	return l.path("key")
}

// movedKeyOf returns the path to which Move has renamed a key.
func movedKeyOf(key string) string { return filepath.Join(filepath.Dir(key), movedKey) }

// moveMark is what movedMark says.
type moveMark struct {
	place    string // of the store, for texts
	store    string // its ID: the log is in no other one
	next     int64  // the number of the first batch that the move has created, or would have
	complete bool   // the bucket had the whole log: replicas may have continued it since
}

const markFormat = "store %s\nbatch %d\n"

func (k moveMark) encode() []byte {
	text := fmt.Appendf(nil, "%s\n"+markFormat, k.place, k.store, k.next)
	if k.complete {
		text = append(text, "complete\n"...)
	}
	return text
}

// readMark returns the mark in the directory at, nil if there is none. The error is sumdb.ErrInvalid if it has
// another text.
func readMark(at location) (*moveMark, error) {
	text, err := os.ReadFile(at.path(movedMark))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	place, rest, _ := strings.Cut(string(text), "\n")
	k := &moveMark{place: place, complete: strings.HasSuffix(rest, "\ncomplete\n")}
	if _, err := fmt.Sscanf(rest, markFormat, &k.store, &k.next); err != nil || string(k.encode()) != string(text) {
		return nil, fmt.Errorf("%w: %s is not what assay log move has written; put it back", sumdb.ErrInvalid, at.path(movedMark))
	}
	return k, nil
}

func (k moveMark) write(at location) error {
	return durable.Replace(at.path(movedMark), k.encode(), 0o600)
}

// checkStore returns an error if the log was brought to another store than the one with this ID.
func (k moveMark) checkStore(at location, id string) error {
	if k.store == id {
		return nil
	}
	return frozen("the log in %s was brought to %s, which is another store than this one, and it may go on there: it stays as it is; "+
		"name that bucket, or begin a new log under a new name", at.dir, k.place)
}

// targetMark is the name of a file in a directory to which MoveBack brings a log, with a random word. The
// batch that ends the log in the bucket has the same word, so that the log goes on in no other directory.
const targetMark = "target"

// readTarget returns the word of the directory at, "" if it has none.
func readTarget(at location) (string, error) {
	word, err := os.ReadFile(at.path(targetMark))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSuffix(string(word), "\n"), err
}

// makeTarget is readTarget, and makes a word if there is none. A batch with the word that is there may still
// arrive in the bucket.
func makeTarget(at location) (string, error) {
	word, err := readTarget(at)
	if word != "" || err != nil {
		return word, err
	}
	word = rand.Text()
	return word, durable.Replace(at.path(targetMark), []byte(word+"\n"), 0o600)
}

// hideKey renames the key in the directory. It stays where it is if it is the file that the servers are to use, given: to
// rename that would stop them.
func hideKey(at location, given string, log *slog.Logger) error {
	key, err := os.Stat(at.path("key"))
	if errors.Is(err, fs.ErrNotExist) { // an earlier call has renamed it
		return nil
	}
	if err != nil {
		return err
	}
	copied, err := os.Stat(given)
	if err != nil {
		return err
	}
	if os.SameFile(key, copied) {
		log.Warn("the key stays in the directory, because the bucket has no copy of it; an earlier version of this program could adopt the log there", "key", at.path("key"))
		return nil
	}
	if err := os.Rename(at.path("key"), at.path(movedKey)); err != nil {
		return err
	}
	return durable.SyncDir(at.dir)
}
