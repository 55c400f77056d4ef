package pinlog

import (
	"bytes"
	"errors"
	"os"

	"github.com/assay-proxy/assay/internal/durable"
)

// headFile is the history of all signed heads, and the file with the newest one. Only the holder of
// the queue uses it.
type headFile struct {
	at      location
	history *os.File
	end     int64 // of the last whole head of the history
}

// openHeads opens the history for appending at end, where its last whole head ends.
func openHeads(at location, end int64) (*headFile, error) {
	history, err := durable.OpenFile(at.path("heads"), 0o600)
	if err != nil {
		return nil, err
	}
	return &headFile{at, history, end}, nil
}

// write adds head to the history, if it is not its last one, and makes it the newest.
func (f *headFile) write(head signedHead) error {
	if !f.endsWith(head) {
		if err := f.append(head); err != nil {
			return err
		}
	}
	return durable.Replace(f.at.path("head"), head.note, 0o600)
}

// endsWith reports whether head is the last one of the history. It is if an earlier attempt has
// added it and failed later.
func (f *headFile) endsWith(head signedHead) bool {
	last := make([]byte, len(head.note))
	_, err := f.history.ReadAt(last, max(0, f.end-int64(len(last))))
	return err == nil && bytes.Equal(last, head.note)
}

// append adds head to the history. After an error the next head is written in its place.
func (f *headFile) append(head signedHead) error {
	if err := durable.Append(f.history, head.note, f.end); err != nil {
		return err
	}
	f.end += int64(len(head.note))
	return nil
}

// cutTail cuts off the bytes after the last whole head.
func (f *headFile) cutTail() error {
	return errors.Join(f.history.Truncate(f.end), f.history.Sync())
}

// replace makes heads the history.
func (f *headFile) replace(heads []byte) error {
	if err := f.history.Close(); err != nil {
		return err
	}
	err := durable.Replace(f.at.path("heads"), heads, 0o600)
	history, err2 := os.OpenFile(f.at.path("heads"), os.O_RDWR, 0)
	f.history, f.end = history, int64(len(heads))
	return errors.Join(err, err2)
}

func (f *headFile) close() error { return f.history.Close() }
