package memory

import (
	"context"
	"io"
)

// firstRead is the size of the first buffer for content of unknown size.
const firstRead = 8 << 10

// Read reads r to its end, or, if r has more than limit bytes, returns limit+1 bytes,
// which the caller refuses. size is the stated size of r, negative if there is none. Read
// takes memory from the budget before it makes a buffer, as Grow does: for the first
// buffer it waits until ctx ends. The error is ErrFull, or that of ctx or r.
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
			room = limit + 1 // one more for the end, or content of limit bytes would need another buffer
		}
		if err := h.Try(int64(cap(data)) + room); err != nil { // both buffers exist during the copy
			return data, err
		}
		data = append(make([]byte, 0, room), data...)
	}
}
