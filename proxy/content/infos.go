package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/storage"
)

// No database covers an .info, so the first upstream decides its Time and Origin. This
// must not be final: an .info is fetched again, in the background, when it is older than
// infoTrust, when another upstream than its own sent proved files of the version, and
// after assay verify --repair. If the new .info differs it replaces the stored one.

const (
	// infoTrust is how long an .info is served without fetching it again. A daily build
	// then costs one background request for each version that it uses.
	infoTrust = 24 * time.Hour

	// infoPause is the time between two fetches of one .info.
	infoPause = time.Hour

	// maxRechecks limits how many are fetched at the same time. Beyond the limit the
	// fetch is skipped; the next use of the version starts it.
	maxRechecks = 4

	// maxInfos limits the memory to some 2 MiB, see maxAbsent.
	maxInfos = 10000

	// recheckState is the state with the time of assay verify --repair, in seconds
	// since 1970: an older .info is fetched again.
	recheckState = "recheck/info"
)

// RecheckInfos makes each later Library on the store fetch an .info that is stored now once
// more, when the .info is used. The store must not be in use.
func RecheckInfos(ctx context.Context, store storage.Store) error {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	return store.SetState(ctx, recheckState, []byte(now))
}

// infos is the state of .info files while the program runs.
type infos struct {
	before  time.Time                     // an older .info is fetched again
	known   memo.Map[memo.Key, infoState] // by key
	running chan struct{}                 // one element for each fetch
}

// infoState is the state of one .info.
type infoState struct {
	source string    // the upstream that was asked last, "" if it is not known
	next   time.Time // until then its age does not count
}

func emptyInfos() *infos {
	return &infos{known: memo.Map[memo.Key, infoState]{Limit: maxInfos}, running: make(chan struct{}, maxRechecks)}
}

// newInfos reads the state of the last assay verify --repair.
func newInfos(ctx context.Context, store storage.Store) (*infos, error) {
	i := emptyInfos()
	value, err := store.State(ctx, recheckState)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", recheckState, err)
	}
	i.before = time.Unix(seconds, 0)
	return i, nil
}

// note remembers that the .info at key was requested from source, and that its age does
// not count until next.
func (i *infos) note(key, source string, next time.Time) {
	i.known.Put(memo.KeyOf(key), infoState{source, next})
}

// source returns the upstream that was asked last for the .info at key, "" if it is not
// known.
func (i *infos) source(key string) string {
	state, _ := i.known.Get(memo.KeyOf(key))
	return state.source
}

// due reports whether an .info that was stored at that time is old enough to be fetched
// again.
func (i *infos) due(stored time.Time) bool {
	return time.Since(stored) > infoTrust || !stored.After(i.before)
}

// begin reports whether the .info at key may be fetched again now: because of its age if
// source is "", otherwise because that upstream sent proved files of the version. If so,
// the caller must call end.
func (i *infos) begin(key, source string) (begun bool) {
	i.known.Change(memo.KeyOf(key), func(state infoState) (infoState, bool) {
		settled := state.source == source
		if source == "" {
			settled = time.Now().Before(state.next)
		}
		if settled {
			return state, false
		}
		select {
		case i.running <- struct{}{}:
		default:
			return state, false // too many
		}
		begun = true
		state.next = time.Now().Add(infoPause) // a fetch is under way
		if source != "" {
			state.source = source
		}
		return state, true
	})
	return begun
}

func (i *infos) end() { <-i.running }
