package durable

import (
	"bytes"
	"os"
)

// holeSize is how many zeros in a row are left out of a file.
const holeSize = 16 << 10

// Sparse writes to a new file from its beginning, and leaves holes for zeros, which take
// no place on disk. Flush ends the file.
type Sparse struct {
	file   *os.File
	offset int64
	zeros  [holeSize]byte
}

// NewSparse returns a Sparse that writes to f, which is empty.
func NewSparse(f *os.File) *Sparse { return &Sparse{file: f} }

// Write writes b. Large writes are better than small ones: of a piece that is shorter
// than a hole no hole is made.
func (s *Sparse) Write(b []byte) (n int, err error) {
	from := 0 // the first byte that is not zero and not written
	for at := 0; at < len(b) && err == nil; at += holeSize {
		end := min(at+holeSize, len(b))
		if end-at == holeSize && bytes.Equal(b[at:end], s.zeros[:]) {
			_, err = s.file.WriteAt(b[from:at], s.offset+int64(from))
			from = end
		}
	}
	if err == nil {
		_, err = s.file.WriteAt(b[from:], s.offset+int64(from))
	}
	if err != nil {
		return 0, err
	}
	s.offset += int64(len(b))
	return len(b), nil
}

// Flush gives the file its length, which may end with a hole, and makes it durable.
func (s *Sparse) Flush() error {
	if err := s.file.Truncate(s.offset); err != nil {
		return err
	}
	return s.file.Sync()
}
