package sumdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/assay-proxy/assay/storage"
)

// remember appends h to the history of accepted heads. Sizes are padded, so
// that keys sort as sizes do.
func (m *Mirror) remember(ctx context.Context, h *head) error {
	data, err := h.encode(false)
	if err != nil {
		return err
	}
	err = m.create(ctx, fmt.Sprintf("head/%016d", h.tree.N), data)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// recall returns the newest head of the history that verifies, without tiles,
// or nil if there is no history. A history of which nothing verifies is an error.
func (m *Mirror) recall(ctx context.Context) (*head, error) {
	var keys []string
	for info, err := range m.store.List(ctx, m.key("head/")) {
		if err != nil {
			return nil, fmt.Errorf("history of tree heads: %w", err)
		}
		keys = append(keys, info.Key)
	}
	var last error
	for _, key := range slices.Backward(keys) {
		data, err := m.object(ctx, key)
		if err == nil {
			var h *head
			if h, err = m.decodeHead(data); err == nil {
				return h, nil
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		m.log.Error("head in history does not verify", "key", key, "err", err)
		last = err
	}
	if last != nil {
		return nil, fmt.Errorf("no head in the history verifies: %w; "+
			"check that the key is that of the database, then restore the store from a backup", last)
	}
	return nil, nil
}

// create stores data at path. The error is fs.ErrExist if there is something.
func (m *Mirror) create(ctx context.Context, path string, data []byte) error {
	info := storage.Info{Key: m.key(path), Size: int64(len(data)), Proof: m.name}
	return m.store.Create(ctx, info, bytes.NewReader(data))
}

// held returns the object at path. One that is damaged is removed and as good
// as absent: it will be fetched and proved again.
func (m *Mirror) held(ctx context.Context, path string) ([]byte, error) {
	data, err := m.object(ctx, m.key(path))
	if errors.Is(err, storage.ErrDamaged) {
		m.log.Error("stored object is damaged; it will be fetched again", "key", m.key(path), "err", err)
		return nil, m.drop(ctx, path)
	}
	return data, err
}

// drop removes the object at path and returns fs.ErrNotExist.
func (m *Mirror) drop(ctx context.Context, path string) error {
	err := m.store.Delete(ctx, m.key(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove damaged %s: %w", path, err)
	}
	return fmt.Errorf("%s: %w", path, fs.ErrNotExist)
}

func (m *Mirror) object(ctx context.Context, key string) ([]byte, error) {
	object, err := m.store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	data := make([]byte, object.Info().Size) // ours are small
	if _, err := io.ReadFull(object, data); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return data, nil
}
