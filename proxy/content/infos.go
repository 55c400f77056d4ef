package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/storage"
)

// No database covers an .info, so the first upstream that is asked decides what its
// Time and Origin are. It must not decide that for ever: an .info is asked for again,
// behind the client's back, when it is older than infoTrust, when another upstream
// than its own has sent what was proved for the version, and after assay verify
// --repair. What comes replaces what is stored if it differs.

const (
	// infoTrust is how long an .info is given without asking again. One build a day
	// then costs one request for each version that it uses, which no client waits for.
	infoTrust = 24 * time.Hour

	// infoPause is the time between two questions about one .info.
	infoPause = time.Hour

	// maxRechecks bounds how many are asked for at the same time. Beyond it none is:
	// the next client that uses the version brings it up again.
	maxRechecks = 4

	// maxInfos bounds the memory to some 2 MiB, see maxAbsent.
	maxInfos = 10000

	// recheckRecord is the record with the time of assay verify --repair, in seconds
	// since 1970: an .info from before is asked for again.
	recheckRecord = "recheck/info"
)

// RecheckInfos makes a Server on the store ask again for every .info that is stored
// now, when it is used. It is for when the store is not in use.
func RecheckInfos(ctx context.Context, store storage.Store) error {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	return store.SetRecord(ctx, recheckRecord, []byte(now))
}

// infos are what is known of .info files while the program runs.
type infos struct {
	before time.Time // what is older than this is to be asked for again

	mu      sync.Mutex
	known   map[memo.Key]infoState // by key
	running int
}

// infoState is about one .info.
type infoState struct {
	source string    // the upstream that was asked last, "" if not known
	next   time.Time // its age does not count before
}

// newInfos reads what a run of assay verify has left.
func newInfos(ctx context.Context, store storage.Store) (*infos, error) {
	i := &infos{known: map[memo.Key]infoState{}}
	value, err := store.Record(ctx, recheckRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", recheckRecord, err)
	}
	i.before = time.Unix(seconds, 0)
	return i, nil
}

// note remembers that source was asked for the .info at key, whose age does not count
// before next.
func (i *infos) note(key, source string, next time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keep(key, infoState{source, next})
}

// keep is called with mu held.
func (i *infos) keep(key string, state infoState) {
	if len(i.known) >= maxInfos {
		clear(i.known)
	}
	i.known[memo.KeyOf(key)] = state
}

// source returns the upstream that was asked last for the .info at key, "" if not known.
func (i *infos) source(key string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.known[memo.KeyOf(key)].source
}

// due reports whether an .info that was stored at that time is to be asked for again
// by its age.
func (i *infos) due(stored time.Time) bool {
	return time.Since(stored) > infoTrust || !stored.After(i.before)
}

// begin reports whether the .info at key may be asked for again now: by its age if
// source is "", else because that upstream has sent what was proved for the version.
// If so, end must be called.
func (i *infos) begin(key, source string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	state := i.known[memo.KeyOf(key)]
	settled := state.source == source
	if source == "" {
		settled = time.Now().Before(state.next)
	}
	if settled || i.running >= maxRechecks {
		return false
	}
	state.next = time.Now().Add(infoPause) // it is being asked for
	if source != "" {
		state.source = source
	}
	i.keep(key, state)
	i.running++
	return true
}

func (i *infos) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.running--
}
