package bolt

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// The journal consists of frames, each of which is one write and one fsync:
//
//	4 bytes   CRC32C of the rest
//	4 bytes   length of the objects
//	26 bytes  mark
//	objects   key and object record, each with its length
//
// The mark is a random text that is in the schema, too. The transaction that ends a merge makes a new
// one, so the frames from before do not count any longer, and are overwritten. It is random because
// the bytes after the last frame are parts of earlier ones, whose content was made by others: they
// must not be able to contain a frame.

const (
	markSize    = 26 // of rand.Text
	frameHeader = 8 + markSize
)

// newFrame returns a frame.
func newFrame(mark string, entries []entry) []byte {
	b := append(make([]byte, frameHeader-markSize), mark...)
	for _, e := range entries {
		b = appendString(b, e.key)
		b = binary.AppendUvarint(b, uint64(len(e.value)))
		b = append(b, e.value...)
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-frameHeader))
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

// parseFrame returns the first frame of b without its header, and its length. The length is 0 if b
// begins with no frame of this mark; ok is false if its bytes are not those of its checksum.
func parseFrame(b []byte, mark string) (objects []byte, length int, ok bool) {
	if len(b) < frameHeader || len(mark) != markSize || string(b[8:frameHeader]) != mark {
		return nil, 0, false
	}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	if n > int64(len(b)-frameHeader) {
		return nil, 0, false
	}
	frame := b[:frameHeader+n]
	return frame[frameHeader:], len(frame), binary.LittleEndian.Uint32(frame) == crc32.Checksum(frame[4:], castagnoli)
}

// readJournal returns the objects of the frames in b, where the last frame ends, and how many frames
// before it are damaged. The bytes after the last intact frame are of a write whose caller has never
// got an answer.
func readJournal(b []byte, mark string) (entries []entry, end, damaged int) {
	suspect := 0
	for at := 0; ; {
		objects, length, ok := parseFrame(b[at:], mark)
		if length == 0 {
			return entries, end, damaged
		}
		at += length
		if !ok {
			suspect++
			continue
		}
		end, damaged, suspect = at, damaged+suspect, 0
		p := parser{rest: objects}
		for len(p.rest) > 0 {
			key := p.string()
			value := slices.Clone(p.take(int(p.uvarint())))
			r, err := parseRecord(key, value)
			if p.err != nil || err != nil {
				damaged++
				break
			}
			entries = append(entries, entry{key, r.info.Size, value})
		}
	}
}
