package modzip

import "io"

// window reads a file in larger pieces than its callers: most entries are so small that a
// system call for each of their parts would take longer than hashing them.
type window struct {
	r      io.ReaderAt
	buffer []byte
	at     int64  // of has in the file
	has    []byte // part of buffer
}

// bytes returns n bytes of the file, at most the size of the buffer, from byte at on. They
// are valid until the next call. If there are fewer, it returns those, and io.EOF or the
// error of the file.
func (w *window) bytes(at int64, n int) ([]byte, error) {
	if b := w.from(at); len(b) >= n {
		return b[:n], nil
	}
	got, err := w.r.ReadAt(w.buffer, at)
	w.at, w.has = at, w.buffer[:got]
	if got >= n {
		return w.has[:n], nil
	}
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return w.has, err
}

// ReadAt is that of the file.
func (w *window) ReadAt(p []byte, at int64) (int, error) {
	if len(p) > len(w.buffer) {
		return w.r.ReadAt(p, at)
	}
	b, err := w.bytes(at, len(p))
	return copy(p, b), err
}

// from returns the bytes from byte at on that are in the buffer.
func (w *window) from(at int64) []byte {
	if at < w.at || at-w.at >= int64(len(w.has)) {
		return nil
	}
	return w.has[at-w.at:]
}

// packed reads the packed content of an entry, the bytes from at to end.
type packed struct {
	in      *window
	at, end int64
}

// Read reads the next bytes.
func (p *packed) Read(b []byte) (int, error) {
	if p.at >= p.end {
		return 0, io.EOF
	}
	has := p.in.from(p.at)
	if len(has) == 0 {
		if _, err := p.in.bytes(p.at, 1); err != nil {
			return 0, err
		}
		has = p.in.from(p.at)
	}
	n := copy(b, has[:min(int64(len(has)), p.end-p.at)])
	p.at += int64(n)
	return n, nil
}

// ReadByte reads the next byte. compress/flate calls it for each byte.
func (p *packed) ReadByte() (byte, error) {
	if has := p.in.from(p.at); len(has) > 0 && p.at < p.end {
		p.at++
		return has[0], nil
	}
	var b [1]byte
	_, err := p.Read(b[:])
	return b[0], err
}
