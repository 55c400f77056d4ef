package memory

import (
	"context"
	"io"
)

// firstRead is the buffer for what has no known size.
const firstRead = 8 << 10

// Read reads r to its end, or until it has more than limit bytes, of which it then
// returns limit+1: the caller refuses them. size is how many bytes r is said to have,
// negative if nothing is known. The buffer is taken from the budget before it is made,
// as Grow does: the first of it is waited for until ctx ends. The error is ErrFull, or
// that of ctx or r.
func (h *Hold) Read(ctx context.Context, r io.Reader, size, limit int64) ([]byte, error) {
	room := min(int64(firstRead), limit+1)
	if size >= 0 {
		room = min(size, limit) + 1 // one more, so that the end is seen without another buffer
	}
	if err := h.Grow(ctx, room); err != nil {
		return nil, err
	}
	data := make([]byte, 0, room)
	for {
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case err == io.EOF, err == nil && int64(len(data)) > limit:
			return data, nil
		case err != nil:
			return data, err
		case len(data) < cap(data):
			continue
		}
		if room = 2 * int64(cap(data)); room >= limit {
			room = limit + 1 // with the end, or what is limit bytes long would need another buffer
		}
		if err := h.Try(int64(cap(data)) + room); err != nil { // both are there while one is copied
			return data, err
		}
		data = append(make([]byte, 0, room), data...)
	}
}
