package tiered

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/assay-proxy/assay/storage"
)

// trustState is the state of the local store with what is trusted there.
const trustState = "tiered"

const (
	// maxTrusted is how many objects are known to be confirmed since a doubt. Their hashes have 8 MiB.
	maxTrusted = 1 << 20

	// maxSuspects is how many objects could not be deleted locally before no object is trusted.
	maxSuspects = 1 << 12

	// leastUnsaved is how many objects are confirmed before the local store is told. After a kill they are
	// confirmed once more.
	leastUnsaved = 1024
)

// trust is which local objects are served without a look into the bucket: all, until there is a doubt, and
// after it those that were confirmed or stored since. It outlives the process.
type trust struct {
	local  storage.Store
	source string // a hash of the name of the bucket

	wary atomic.Bool // not all are trusted

	saving    sync.Mutex          // held while the state is written
	mu        sync.Mutex          // guards the fields below
	doubted   bool                // there was a doubt
	behind    bool                // the local store does not know of it
	confirmed map[uint64]struct{} // since then; hashes of keys
	suspects  map[uint64]struct{} // what could not be deleted, in this process
	unsaved   int                 // confirmed since the last save
}

// newTrust returns what the local store says. One that was in front of another bucket, or of none, is not
// trusted.
func newTrust(ctx context.Context, local storage.Store, source string) (*trust, error) {
	sum := sha256.Sum256([]byte(source))
	t := &trust{local: local, source: fmt.Sprintf("%x", sum[:16]), confirmed: map[uint64]struct{}{}, suspects: map[uint64]struct{}{}}
	value, err := local.State(ctx, trustState)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		empty, err := isEmpty(ctx, local)
		if err == nil && empty {
			return t, t.save(ctx)
		}
		return t, errors.Join(err, t.doubt(ctx))
	case err != nil:
		return t, errors.Join(err, t.doubt(ctx))
	}
	if !t.load(value) {
		return t, t.doubt(ctx)
	}
	return t, nil
}

func isEmpty(ctx context.Context, s storage.Store) (bool, error) {
	for _, err := range s.Keys(ctx, "") {
		return false, err
	}
	return true, nil
}

// The value of the state is a line with the source and whether there is a doubt, and then the hashes of
// the confirmed keys, 8 bytes each.
const (
	header    = "assay tier 1 %32s %s\n"
	allWord   = "all"
	namedWord = "named"
)

func (t *trust) load(value []byte) bool {
	line, hashes, found := bytes.Cut(value, []byte("\n"))
	var source, which string
	n, err := fmt.Sscanf(string(line)+"\n", header, &source, &which)
	if !found || err != nil || n != 2 || source != t.source || which != allWord && which != namedWord || len(hashes)%8 != 0 {
		return false
	}
	t.doubted = which == namedWord
	t.wary.Store(t.doubted)
	for ; len(hashes) > 0; hashes = hashes[8:] {
		t.confirmed[binary.LittleEndian.Uint64(hashes)] = struct{}{}
	}
	return true
}

// save stores what is trusted.
func (t *trust) save(ctx context.Context) error {
	t.saving.Lock()
	defer t.saving.Unlock()
	t.mu.Lock()
	which := allWord
	if t.doubted {
		which = namedWord
	}
	value := fmt.Appendf(nil, header, t.source, which)
	for hash := range t.confirmed {
		value = binary.LittleEndian.AppendUint64(value, hash)
	}
	t.unsaved = 0
	behind := t.behind
	t.behind = false
	t.mu.Unlock()
	err := t.local.SetState(ctx, trustState, value)
	if err != nil && behind {
		t.mu.Lock()
		t.behind = true
		t.mu.Unlock()
	}
	return err
}

// saveDoubt stores what is trusted if the local store does not know of a doubt.
func (t *trust) saveDoubt(ctx context.Context) error {
	t.mu.Lock()
	behind := t.behind
	t.mu.Unlock()
	if !behind {
		return nil
	}
	return t.save(ctx)
}

// doubt ends the trust in all objects that are there now. After an error this process does not trust them,
// but the next one may, unless saveDoubt returns nil later.
func (t *trust) doubt(ctx context.Context) error {
	t.mu.Lock()
	t.doubted, t.behind = true, true
	clear(t.confirmed)
	t.wary.Store(true)
	t.mu.Unlock()
	return t.save(ctx)
}

func hashOf(key string) uint64 {
	sum := sha256.Sum256([]byte(key))
	return binary.LittleEndian.Uint64(sum[:])
}

// has reports whether a local object is trusted.
func (t *trust) has(key string) bool {
	if !t.wary.Load() {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	hash := hashOf(key)
	_, confirmed := t.confirmed[hash]
	_, suspect := t.suspects[hash]
	return !suspect && (confirmed || !t.doubted)
}

// confirm trusts a local object, and reports whether it is time to save.
func (t *trust) confirm(key string) (due bool) {
	if !t.wary.Load() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.suspects, hashOf(key))
	if !t.doubted {
		t.wary.Store(len(t.suspects) > 0)
		return false
	}
	for other := range t.confirmed {
		if len(t.confirmed) < maxTrusted {
			break
		}
		delete(t.confirmed, other) // it is confirmed once more when it is used
	}
	t.confirmed[hashOf(key)] = struct{}{}
	t.unsaved++
	return t.unsaved >= max(leastUnsaved, len(t.confirmed)/8)
}

// unsavedNow reports whether the local store was not told of all that is trusted.
func (t *trust) unsavedNow() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unsaved > 0 || t.behind
}

// suspect ends the trust in an object that should have been deleted.
func (t *trust) suspect(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.suspects) >= maxSuspects { // a disk that deletes nothing
		t.doubted, t.behind = true, true
		clear(t.confirmed)
		clear(t.suspects)
	}
	delete(t.confirmed, hashOf(key))
	t.suspects[hashOf(key)] = struct{}{}
	t.wary.Store(true)
}

// clean ends the suspicion against a key whose object is gone.
func (t *trust) clean(key string) {
	if !t.wary.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.suspects, hashOf(key))
	t.wary.Store(t.doubted || len(t.suspects) > 0)
}
