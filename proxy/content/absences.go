package content

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/storage"
)

// absences are the absences that upstreams have stated, kept in the store for an outage.
// They are in a fixed number of states of limited size. A secret of this store decides
// which state has a key, so that no client can fill the state of a given key. Noted
// absences are written a moment later, several together: no request waits for the disk.
type absences struct {
	store storage.Store
	log   *slog.Logger
	keep  time.Duration // older absences are dropped

	shared bool // other replicas change the store, too, and a request costs more

	mu      sync.Mutex // guards the fields below
	secret  []byte     // nil until it is read
	noted   map[absenceKey]time.Time
	quota   quota
	writing bool
	failing bool          // the last write failed, and was logged
	closing chan struct{} // closed by close
	written sync.WaitGroup
}

// absenceKey is the key of an object, and the upstream setting under which it is absent.
// With another setting it may exist.
type absenceKey struct{ setting, key string }

const (
	// absenceStates times maxAbsenceState, 8 MiB, limits the absences: some 80,000.
	absenceStates   = 256
	maxAbsenceState = 32 << 10

	// maxClientAbsences is how many absences are kept for one client in an hour, so that
	// a client that requests nonsense does not displace the absences of others.
	maxClientAbsences = 8000
	maxNotingClients  = 1000

	// maxNotedAbsences limits the absences that are not written yet, to some 2 MiB, see
	// maxAbsent.
	maxNotedAbsences = 4096

	// absenceRenewal is the age from which an absence is written again when it is stated
	// again.
	absenceRenewal = 5 * time.Minute

	absencePause = time.Second // from a note to the write

	// In a bucket each state costs three requests. So at most so many are written, each time after a longer pause;
	// the others wait.
	sharedAbsencePause  = 5 * time.Second
	sharedAbsenceStates = 16
)

func newAbsences(store storage.Store, log *slog.Logger, keep time.Duration) *absences {
	return &absences{store: store, log: log, keep: keep, noted: map[absenceKey]time.Time{}, closing: make(chan struct{})}
}

// note notes that upstreams stated the absence of an object that a client requested at a
// time.
func (a *absences) note(client string, key absenceKey, asked time.Time) {
	if len(key.key) > maxAbsentKey || strings.Contains(key.key, "\n") {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.noted[key]; !known && (a.isClosed() || len(a.noted) >= maxNotedAbsences || !a.quota.allow(client)) {
		return
	}
	a.noted[key] = asked
	if !a.writing {
		a.writing = true
		a.written.Go(a.write)
	}
}

// quota counts the absences of each client, so that no client uses up the space of
// others.
type quota struct {
	clients map[string]int // absences noted since counted, by client
	counted time.Time
}

// allow counts an absence for a client, and reports whether it may be kept.
func (q *quota) allow(client string) bool {
	if q.clients == nil || time.Since(q.counted) > time.Hour {
		q.clients, q.counted = map[string]int{}, time.Now()
	}
	if _, known := q.clients[client]; !known && len(q.clients) >= maxNotingClients {
		client = "" // all other clients
	}
	q.clients[client]++
	return q.clients[client] <= maxClientAbsences
}

// close writes the noted absences. Later ones are ignored.
func (a *absences) close() {
	a.mu.Lock()
	if !a.isClosed() {
		close(a.closing)
	}
	a.mu.Unlock()
	a.written.Wait()
}

// write writes the noted absences, after a pause in which more may come.
func (a *absences) write() {
	for {
		select {
		case <-time.After(a.pause()):
		case <-a.closing:
		}
		a.mu.Lock()
		noted := a.noted
		a.noted = map[absenceKey]time.Time{}
		a.writing = len(noted) > 0
		a.mu.Unlock()
		if len(noted) == 0 {
			return
		}
		a.report(a.writeAll(noted))
	}
}

func (a *absences) pause() time.Duration {
	if a.shared {
		return sharedAbsencePause
	}
	return absencePause
}

// later notes absences again that were not written for now.
func (a *absences) later(noted map[absenceKey]time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, asked := range noted {
		if len(a.noted) < maxNotedAbsences && asked.After(a.noted[key]) {
			a.noted[key] = asked
		}
	}
}

// report logs only the first of several failures in a row: the disk may be full for
// hours.
func (a *absences) report(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && !a.failing {
		a.log.Warn("absences not saved", "err", err)
	}
	a.failing = err != nil
}

func (a *absences) writeAll(noted map[absenceKey]time.Time) error {
	ctx := context.Background()
	states := map[string]map[absenceKey]time.Time{}
	for key, asked := range noted {
		name, err := a.stateOf(ctx, key)
		if err != nil {
			return err
		}
		if states[name] == nil {
			states[name] = map[absenceKey]time.Time{}
		}
		states[name][key] = asked
	}
	names := slices.SortedFunc(maps.Keys(states), func(x, y string) int { return len(states[y]) - len(states[x]) })
	if a.shared && !a.isClosed() && len(names) > sharedAbsenceStates {
		for _, name := range names[sharedAbsenceStates:] {
			a.later(states[name])
		}
		names = names[:sharedAbsenceStates]
	}
	var g errgroup.Group
	g.SetLimit(16) // concurrent changes share a commit
	for _, name := range names {
		g.Go(func() error { return a.merge(ctx, name, states[name]) })
	}
	return g.Wait()
}

func (a *absences) isClosed() bool {
	select {
	case <-a.closing:
		return true
	default:
		return false
	}
}

// merge adds noted absences to a state. They are of the setting in force; absences of
// other settings are dropped. It begins again when another replica has changed the state.
func (a *absences) merge(ctx context.Context, name string, noted map[absenceKey]time.Time) error {
	for {
		old, err := a.store.State(ctx, name)
		damaged := errors.Is(err, storage.ErrDamaged)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !damaged {
			return err
		}
		value := a.with(decodeAbsences(old), noted)
		switch {
		case value == nil:
			return nil
		case damaged:
			return a.store.SetState(ctx, name, value)
		case err == nil && old == nil:
			old = []byte{} // nil is none
		}
		if err := a.store.SwapState(ctx, name, old, value); !errors.Is(err, storage.ErrConflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(mathrand.N(20 * time.Millisecond)):
		}
	}
}

// with returns the content of a state that has the absences in kept and in noted, nil if it need not be written.
func (a *absences) with(kept, noted map[absenceKey]time.Time) []byte {
	settings := map[string]bool{}
	changed := false
	for key, asked := range noted {
		settings[digest(key.setting)] = true
		changed = changed || asked.Sub(kept[absenceKey{digest(key.setting), key.key}]).Abs() >= absenceRenewal
	}
	if !changed {
		return nil
	}
	for key, stated := range kept {
		if !settings[key.setting] || time.Since(stated) > a.keep {
			delete(kept, key)
		}
	}
	for key, asked := range noted {
		kept[absenceKey{digest(key.setting), key.key}] = asked
	}
	return encodeAbsences(kept)
}

// find returns when the absence of key was stated, the zero time if never.
func (a *absences) find(ctx context.Context, key absenceKey) (time.Time, error) {
	name, err := a.stateOf(ctx, key)
	if err != nil {
		return time.Time{}, err
	}
	kept, err := a.state(ctx, name)
	return kept[absenceKey{digest(key.setting), key.key}], err
}

// state returns the absences in a state, by key and digest of the setting. A damaged
// state has none, and is rewritten.
func (a *absences) state(ctx context.Context, name string) (map[absenceKey]time.Time, error) {
	data, err := a.store.State(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrDamaged) {
		return nil, err
	}
	return decodeAbsences(data), nil
}

// stateOf returns the name of the state for a key. No module path begins with an
// element without a dot.
func (a *absences) stateOf(ctx context.Context, key absenceKey) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.secret == nil {
		secret, err := a.readSecret(ctx)
		if err != nil {
			return "", fmt.Errorf("secret for the names of absences: %w", err)
		}
		a.secret = secret
	}
	sum := sha256.Sum256(slices.Concat(a.secret, []byte(key.key)))
	return fmt.Sprintf("absent/%02x", sum[:1]), nil
}

// readSecret returns the secret of the store. Of several replicas that create it, one does.
func (a *absences) readSecret(ctx context.Context) ([]byte, error) {
	const name = "absent/secret"
	secret, err := a.store.State(ctx, name)
	made := []byte(rand.Text())
	switch {
	case errors.Is(err, storage.ErrDamaged):
		return made, a.store.SetState(ctx, name, made)
	case !errors.Is(err, fs.ErrNotExist):
		return secret, err
	}
	if err := a.store.SwapState(ctx, name, nil, made); !errors.Is(err, storage.ErrConflict) {
		return made, err
	}
	return a.store.State(ctx, name)
}

// digest identifies a setting in a state.
func digest(setting string) string {
	sum := sha256.Sum256([]byte(setting))
	return fmt.Sprintf("%x", sum[:8])
}

// encodeAbsences returns the content of a state: a line for each absence, the newest
// first, with the time in seconds since 1970, the digest of the setting, and the key. The
// oldest absences are omitted if it would be too large.
func encodeAbsences(kept map[absenceKey]time.Time) []byte {
	keys := make([]absenceKey, 0, len(kept))
	for key := range kept {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b absenceKey) int { return kept[b].Compare(kept[a]) })
	var data []byte
	for _, key := range keys {
		line := fmt.Appendf(nil, "%d %s %s\n", kept[key].Unix(), key.setting, key.key)
		if len(data)+len(line) > maxAbsenceState {
			break
		}
		data = append(data, line...)
	}
	return data
}

// decodeAbsences is the inverse of encodeAbsences. It ignores what is malformed.
func decodeAbsences(data []byte) map[absenceKey]time.Time {
	kept := map[absenceKey]time.Time{}
	for line := range bytes.Lines(data) {
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), " ", 3)
		if len(fields) != 3 {
			continue
		}
		if seconds, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			kept[absenceKey{fields[1], fields[2]}] = time.Unix(seconds, 0)
		}
	}
	return kept
}
