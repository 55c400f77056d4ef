package modzip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

const (
	// arenaSize bounds the keys and values that are sorted in memory at once.
	// Nearly all modules fit.
	arenaSize = 3 << 20

	// scratchLimit is the size of a scratch file. The names of a directory of 64 MiB,
	// with their hashes, take less; only names in many folders take more.
	scratchLimit = 192 << 20

	// runBuffer is for each sorted piece of a scratch file while they are merged.
	runBuffer = 8 << 10
)

// sorter sorts keys with values in a bounded amount of memory. If they do not fit, it sorts
// pieces, writes them to a scratch file, and merges them at the end. It is stable: equal
// keys stay in the order in which they were added.
type sorter struct {
	scratch func() (*os.File, error) // makes an empty file, which done removes
	beside  int                      // bytes that the caller keeps in memory for each row

	arena []byte
	rows  []row
	file  *os.File // nil as long as everything fits
	size  int64    // of the file
	runs  []int64  // where each piece in it begins
}

// row is a key and its value in the arena.
type row struct{ at, key, value int32 }

func (r row) keyIn(arena []byte) []byte { return arena[r.at : r.at+r.key] }
func (r row) valueIn(arena []byte) []byte {
	return arena[r.at+r.key : r.at+r.key+r.value]
}

// rowSize is the size of a row without its key and value.
const rowSize = 12

// fits reports whether a key and a value of so many bytes together fit into memory. One
// row always fits.
func (s *sorter) fits(n int) bool {
	return len(s.rows) == 0 || len(s.arena)+n+(len(s.rows)+1)*(rowSize+s.beside) <= arenaSize
}

// add adds copies of a key and a value.
func (s *sorter) add(key string, value []byte) error {
	if !s.fits(len(key) + len(value)) {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.rows = append(s.rows, row{int32(len(s.arena)), int32(len(key)), int32(len(value))})
	s.arena = append(append(s.arena, key...), value...)
	return nil
}

// sort sorts the rows in memory.
func (s *sorter) sort() {
	slices.SortStableFunc(s.rows, func(a, b row) int { return bytes.Compare(a.keyIn(s.arena), b.keyIn(s.arena)) })
}

// spill writes the rows in memory, sorted, to the end of the scratch file.
func (s *sorter) spill() (err error) {
	if s.file == nil {
		if s.file, err = s.scratch(); err != nil {
			return err
		}
	}
	s.sort()
	s.runs = append(s.runs, s.size)
	out := bufio.NewWriterSize(s.file, 64<<10)
	var lengths [8]byte
	for _, r := range s.rows {
		binary.LittleEndian.PutUint32(lengths[:], uint32(r.key))
		binary.LittleEndian.PutUint32(lengths[4:], uint32(r.value))
		_, _ = out.Write(lengths[:]) // Flush has its error
		_, _ = out.Write(s.arena[r.at : r.at+r.key+r.value])
		s.size += int64(len(lengths)) + int64(r.key) + int64(r.value)
	}
	s.arena, s.rows = s.arena[:0], s.rows[:0]
	if err := out.Flush(); err != nil {
		return fmt.Errorf("scratch file: %w", err)
	}
	if s.size > scratchLimit {
		return fmt.Errorf("%w: the names in a zip", ErrTooLarge)
	}
	return nil
}

// release writes the rows in memory to the scratch file, and frees the memory.
func (s *sorter) release() error {
	if len(s.rows) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.arena, s.rows = nil, nil
	return nil
}

// each calls visit for all keys and values in order, which are valid until it
// returns. Nothing can be added after it.
func (s *sorter) each(visit func(key, value []byte) error) error {
	if s.file == nil {
		s.sort()
		for _, r := range s.rows {
			if err := visit(r.keyIn(s.arena), r.valueIn(s.arena)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.spill(); err != nil {
		return err
	}
	s.arena, s.rows = nil, nil // the memory is for the buffers now
	return s.merge(visit)
}

// merge does what each does for the pieces in the scratch file.
func (s *sorter) merge(visit func(key, value []byte) error) error {
	var all []*run
	for i, begin := range s.runs {
		end := s.size
		if i+1 < len(s.runs) {
			end = s.runs[i+1]
		}
		r := &run{in: bufio.NewReaderSize(io.NewSectionReader(s.file, begin, end-begin), runBuffer)}
		if more, err := r.next(); err != nil {
			return err
		} else if more {
			all = append(all, r)
		}
	}
	for len(all) > 0 {
		first := 0 // of equal keys the one from the piece that was written first
		for i, r := range all {
			if bytes.Compare(r.key(), all[first].key()) < 0 {
				first = i
			}
		}
		r := all[first]
		if err := visit(r.key(), r.data[r.split:]); err != nil {
			return err
		}
		more, err := r.next()
		if err != nil {
			return err
		}
		if !more {
			all = slices.Delete(all, first, first+1)
		}
	}
	return nil
}

// done removes the scratch file.
func (s *sorter) done() {
	if s.file != nil {
		_ = s.file.Close() // nothing in it is needed any more
		_ = os.Remove(s.file.Name())
	}
}

// run is a sorted piece of a scratch file that is being read.
type run struct {
	in    *bufio.Reader
	data  []byte // the key and the value that it is at
	split int    // where the value begins
}

func (r *run) key() []byte { return r.data[:r.split] }

// next moves to the next key, and reports whether there is one.
func (r *run) next() (bool, error) {
	var lengths [8]byte
	if _, err := io.ReadFull(r.in, lengths[:]); err == io.EOF {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("scratch file: %w", err)
	}
	r.split = int(binary.LittleEndian.Uint32(lengths[:]))
	n := r.split + int(binary.LittleEndian.Uint32(lengths[4:]))
	if n > maxRow {
		return false, errors.New("scratch file: another program has changed it")
	}
	r.data = slices.Grow(r.data[:0], n)[:n]
	if _, err := io.ReadFull(r.in, r.data); err != nil {
		return false, fmt.Errorf("scratch file: %w", err)
	}
	return true, nil
}

// maxRow is the longest key and value together: a name folded, and as it is.
const maxRow = 256 << 10
