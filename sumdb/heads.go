package sumdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/assay-proxy/assay/storage"
)

// headStore stores the newest head, and the history of all accepted heads.
type headStore struct {
	objects *objects
	key     note.Verifier // of the database
	log     *slog.Logger
}

// stateKey is the key of the newest head.
func (s *headStore) stateKey() string { return s.objects.key("latest") }

// read returns the stored head, whose tiles are not verified. The error is fs.ErrNotExist if there
// is none. If the stored head does not verify, read returns an error together with the state,
// which is not nil then.
func (s *headStore) read(ctx context.Context) (h *head, state []byte, err error) {
	state, err = s.objects.store.State(ctx, s.stateKey())
	if err != nil {
		return nil, nil, err
	}
	if state == nil {
		state = []byte{} // there is a state, and it is empty
	}
	if h, err = decodeHead(state, s.key); err != nil {
		return nil, state, err
	}
	h.state = state
	return h, state, nil
}

// apply replaces the stored head old by value, and then creates objects, in one batch.
func (s *headStore) apply(ctx context.Context, old, value []byte, objects []storage.Small) error {
	return s.objects.apply(ctx, storage.Batch{
		Swap: &storage.Swap{Name: s.stateKey(), Old: old, New: value}, SwapFirst: true, Create: objects,
	})
}

// swap replaces the stored head old by value. It also replaces a stored head with damaged bytes,
// which cannot be compared with anything; the history has that head. A batch that has failed may
// have stored value.
func (s *headStore) swap(ctx context.Context, old, value []byte) error {
	store, key := s.objects.store, s.stateKey()
	err := store.SwapState(ctx, key, old, value)
	switch {
	case errors.Is(err, storage.ErrConflict):
		if stored, e := store.State(ctx, key); e == nil && bytes.Equal(stored, value) {
			return nil
		}
		return err
	case !errors.Is(err, storage.ErrDamaged):
		return err
	}
	s.log.Error("stored tree head is damaged; replacing it", "err", err)
	if err := store.DeleteState(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return store.SwapState(ctx, key, nil, value)
}

// entry returns the entry of h in the history. Sizes are padded, so that keys sort as sizes do.
func (s *headStore) entry(h *head) (storage.Small, error) {
	data, err := h.encode(false)
	if err != nil {
		return storage.Small{}, err
	}
	return s.objects.object(fmt.Sprintf("head/%016d", h.tree.N), data), nil
}

// remember appends h to the history.
func (s *headStore) remember(ctx context.Context, h *head) error {
	entry, err := s.entry(h)
	if err != nil {
		return err
	}
	err = s.objects.store.Create(ctx, entry.Info, bytes.NewReader(entry.Content))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// recall returns the newest head of the history that verifies, without tiles, or nil if
// there is no history. A history of which nothing verifies is an error.
func (s *headStore) recall(ctx context.Context) (*head, error) {
	var keys []string
	for key, err := range s.objects.store.Keys(ctx, s.objects.key("head/")) {
		if err != nil {
			return nil, fmt.Errorf("history of tree heads: %w", err)
		}
		keys = append(keys, key)
	}
	var last error
	for _, key := range slices.Backward(keys) {
		data, err := s.objects.readKey(ctx, key)
		if err == nil {
			var h *head
			if h, err = decodeHead(data, s.key); err == nil {
				return h, nil
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.log.Error("head in history does not verify", "key", key, "err", err)
		last = err
	}
	if last != nil {
		return nil, fmt.Errorf("no head in the history verifies: %w; "+
			"check that the key is that of the database, then restore the store from a backup", last)
	}
	return nil, nil
}
