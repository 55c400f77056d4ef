package pinlog

import (
	"time"

	"golang.org/x/mod/sumdb/note"
)

// EntryMemory is entryMemory.
const EntryMemory = entryMemory

// The functions with which the fuzz targets read and write the files of a log.

func (e Entry) Normal() (Entry, error) { return e.normal() }
func (e Entry) Encode() []byte         { return e.encode() }

func DecodeEntry(text []byte) (Entry, error) { return decodeEntry(text) }

func AppendFrame(b, text []byte) []byte       { return appendFrame(b, text) }
func DecodeFrame(frame []byte) (Entry, error) { return decodeFrame(frame) }

func SplitHeads(data []byte) (heads, damaged [][]byte, end int) { return splitHeads(data) }

// RecodeGuard decodes a guard and encodes it again.
func RecodeGuard(text []byte) ([]byte, error) {
	g, err := decodeGuard(text)
	return g.encode(), err
}

// EncodeGuard returns the text of a guard without the fields of a guard in the directory.
func EncodeGuard(key string, size int64, root [32]byte, inode uint64, born int64) []byte {
	g := guard{key: key, file: identity{inode: inode, born: born}}
	g.tree.N, g.tree.Hash = size, root
	return g.encode()
}

// EncodeMark returns the text of a guard in the directory of the log.
func EncodeMark(key string, size int64, inode uint64, times ...int64) []byte {
	g := guard{key: key, inside: true, file: identity{inode, times[0], times[1]}, self: identity{inode: inode + 1, born: times[2]}}
	g.tree.N = size
	return g.encode()
}

// OldGuard returns the text of the file called guard that the first version of this program wrote
// beside the file of entries, with the tree of the guard at path.
func OldGuard(path string) (text []byte, size int64, err error) {
	m := readGuardFile(path, -1)
	m.guard.inside = false
	return m.guard.encode(), m.size, m.err
}

// FirstBatch returns batch 0 of a log that was begun at this time, by the key in the file at path.
func FirstBatch(path string, began time.Time) ([]byte, error) {
	key, err := readKey(path)
	if err != nil {
		return nil, err
	}
	b, err := nextBatch(tip{}, newHashTree(), nil, nil)
	b.time = began.UTC().Truncate(time.Second)
	if err != nil {
		return nil, err
	}
	return b.encode(key)
}

// SignText signs a text with the key in the file at path.
func SignText(path, text string) ([]byte, error) {
	key, err := readKey(path)
	if err != nil {
		return nil, err
	}
	return note.Sign(&note.Note{Text: text}, key.signer)
}

// SetPatience changes how long an append of l may take. It must be called before the first one.
func SetPatience(l *Log, d time.Duration) { l.appender.patience = d }
