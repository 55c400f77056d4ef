package budget

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"

	"github.com/assay-proxy/assay/storage"
)

const (
	// usesState is the state with the uses of objects: a version, and for each object that was used the hash of
	// its name, the count and the time.
	usesState = "evictions"

	// usesVersion is the first byte of the state. A state with another one counts as absent.
	usesVersion = 1

	// useSize is the size of an object in the state, and mostSaved how many it has at most: those that were used
	// last.
	useSize   = 8 + 1 + 8
	mostSaved = 500_000
)

// useOf is how an object was used.
type useOf struct {
	count uint8
	at    int64 // seconds
}

// nameHash returns the hash of the name of an object.
func nameHash(key string) uint64 {
	sum := sha256.Sum256([]byte(nameOf(key)))
	return binary.BigEndian.Uint64(sum[:])
}

// loadUses reads the state. What is lost costs a few evictions of popular objects and nothing else.
func loadUses(ctx context.Context, store storage.Store) (map[uint64]useOf, error) {
	uses := map[uint64]useOf{}
	value, err := store.State(ctx, usesState)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrDamaged) {
		return uses, nil
	}
	if err != nil || len(value) == 0 || value[0] != usesVersion {
		return uses, err
	}
	for b := value[1:]; len(b) >= useSize; b = b[useSize:] {
		uses[binary.BigEndian.Uint64(b)] = useOf{b[8], int64(binary.BigEndian.Uint64(b[9:]))}
	}
	return uses, nil
}

// encodeUses returns the state with the uses of names, by their hashes.
func encodeUses(hashes []uint64, uses []useOf) []byte {
	value := []byte{usesVersion}
	for i, use := range uses {
		value = binary.BigEndian.AppendUint64(value, hashes[i])
		value = append(value, use.count)
		value = binary.BigEndian.AppendUint64(value, uint64(use.at))
	}
	return value
}
