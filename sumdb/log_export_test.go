package sumdb

// EntryMemory is entryMemory.
const EntryMemory = entryMemory

// What the fuzz targets read and write of the files of a log.

func (e LogEntry) Normal() (LogEntry, error) { return e.normal() }
func (e LogEntry) Encode() []byte            { return e.encode() }

func DecodeEntry(text []byte) (LogEntry, error) { return decodeEntry(text) }

func AppendFrame(b, text []byte) []byte          { return appendFrame(b, text) }
func DecodeFrame(frame []byte) (LogEntry, error) { return decodeFrame(frame) }

func SplitHeads(data []byte) (heads, damaged [][]byte, end int) { return splitHeads(data) }

// RecodeGuard decodes a guard and encodes it again.
func RecodeGuard(text []byte) ([]byte, error) {
	g, err := decodeGuard(text)
	return g.encode(), err
}

// EncodeGuard is the text of a guard.
func EncodeGuard(key string, size int64, root [32]byte, inode uint64, born int64) []byte {
	g := guard{key: key, file: identity{inode, born}}
	g.tree.N, g.tree.Hash = size, root
	return g.encode()
}
