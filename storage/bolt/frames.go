package bolt

import (
	"bytes"
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

// parseFrame returns the objects of the intact frame of this mark with which b begins, and its length,
// which is 0 if b begins with none.
func parseFrame(b []byte, mark string) (objects []byte, length int) {
	if len(b) < frameHeader || string(b[8:frameHeader]) != mark {
		return nil, 0
	}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	if n > int64(len(b)-frameHeader) {
		return nil, 0
	}
	frame := b[:frameHeader+n]
	if binary.LittleEndian.Uint32(frame) != crc32.Checksum(frame[4:], castagnoli) {
		return nil, 0
	}
	return frame[frameHeader:], len(frame)
}

// findFrame returns the objects of the first intact frame in b, where it begins, and its length. If
// there is none, the length is 0, and at is where the last mark is, -1 if there is none. A mark can be
// searched for because no content has one by chance, and the end of a frame need not be known: the
// length of a damaged frame may be damaged, too.
func findFrame(b []byte, mark string) (objects []byte, at, length int) {
	last := -1
	if len(mark) != markSize {
		return nil, last, 0
	}
	for from := frameHeader - markSize; from <= len(b); from += markSize {
		i := bytes.Index(b[from:], []byte(mark))
		if i < 0 {
			break
		}
		from += i
		last = from - (frameHeader - markSize)
		if objects, length := parseFrame(b[last:], mark); length > 0 {
			return objects, last, length
		}
	}
	return nil, last, 0
}

// readJournal returns the objects of the frames in b, where the last frame ends, and in how many
// places damaged frames are before it. What follows the last intact frame is one write whose caller has
// never got an answer, unless more than one frame begins there.
func readJournal(b []byte, mark string) (entries []entry, end, damaged int) {
	for {
		objects, at, length := findFrame(b[end:], mark)
		if at > 0 {
			damaged++
		}
		if length == 0 {
			return entries, end, damaged
		}
		end += at + length
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
