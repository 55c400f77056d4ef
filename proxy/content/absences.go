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
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/storage"
)

// absences are what the upstreams have said to be absent, kept in the store for an
// outage. There is a fixed number of records of bounded size; which one a key is in
// depends on a secret of this store, so that no client can fill the record of another
// one's keys. What is noted is written a moment later, several together: nothing waits
// for the disk.
type absences struct {
	store storage.Store
	log   *slog.Logger
	keep  time.Duration // what is older is of no use

	mu      sync.Mutex // guards what follows
	secret  []byte     // nil: not read yet
	noted   map[absenceKey]time.Time
	quota   quota
	writing bool
	failing bool // the last writing failed, which has been logged
	closed  bool
	closing chan struct{} // closed by close
	written sync.WaitGroup
}

// absenceKey is an object, and the setting of the upstreams that say that it is absent.
// By another setting it may be there.
type absenceKey struct{ setting, key string }

const (
	// absenceRecords times maxAbsenceRecord, 8 MiB, bounds what is kept: some 80,000
	// absences.
	absenceRecords   = 256
	maxAbsenceRecord = 32 << 10

	// maxClientAbsences is how many one client may have kept in an hour, so that one
	// that asks for nonsense does not replace what others need.
	maxClientAbsences = 8000
	maxNotingClients  = 1000

	// maxNotedAbsences bounds those that are not written yet, to some 2 MiB, see
	// maxAbsent.
	maxNotedAbsences = 4096

	// absenceRenewal is how old an absence that is stated again must be to be written
	// again.
	absenceRenewal = 5 * time.Minute

	absencePause = time.Second // before what was noted is written
)

func newAbsences(store storage.Store, log *slog.Logger, keep time.Duration) *absences {
	return &absences{store: store, log: log, keep: keep, noted: map[absenceKey]time.Time{}, closing: make(chan struct{})}
}

// note keeps that upstreams have said to be absent what a client asked for at a time.
func (a *absences) note(client string, key absenceKey, asked time.Time) {
	if len(key.key) > maxAbsentKey || strings.Contains(key.key, "\n") {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.noted[key]; !known && (a.closed || len(a.noted) >= maxNotedAbsences || !a.quota.allow(client)) {
		return
	}
	a.noted[key] = asked
	if !a.writing {
		a.writing = true
		a.written.Go(a.write)
	}
}

// quota counts the absences of each client, so that none fills the room of others.
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
		client = "" // all others
	}
	q.clients[client]++
	return q.clients[client] <= maxClientAbsences
}

// close writes what was noted. Nothing is noted any more.
func (a *absences) close() {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.closing)
	}
	a.mu.Unlock()
	a.written.Wait()
}

// write writes what was noted, after a moment in which more may come.
func (a *absences) write() {
	for {
		select {
		case <-time.After(absencePause):
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

// report logs the first failure of several in a row: the disk may be full for hours.
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
	records := map[string]map[absenceKey]time.Time{}
	for key, asked := range noted {
		name, err := a.recordOf(ctx, key)
		if err != nil {
			return err
		}
		if records[name] == nil {
			records[name] = map[absenceKey]time.Time{}
		}
		records[name][key] = asked
	}
	var g errgroup.Group
	g.SetLimit(16) // changes that wait at the same time share a commit
	for name, noted := range records {
		g.Go(func() error { return a.merge(ctx, name, noted) })
	}
	return g.Wait()
}

// merge adds what was noted to a record. What is noted is of the setting in force, so
// that what others have said goes.
func (a *absences) merge(ctx context.Context, name string, noted map[absenceKey]time.Time) error {
	kept, err := a.record(ctx, name)
	if err != nil {
		return err
	}
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
	return a.store.SetRecord(ctx, name, encodeAbsences(kept))
}

// find returns when what has the key was said to be absent, the zero time if never.
func (a *absences) find(ctx context.Context, key absenceKey) (time.Time, error) {
	name, err := a.recordOf(ctx, key)
	if err != nil {
		return time.Time{}, err
	}
	kept, err := a.record(ctx, name)
	return kept[absenceKey{digest(key.setting), key.key}], err
}

// record returns the absences in a record, by key and digest of the setting. One that is
// damaged has none, and is written anew.
func (a *absences) record(ctx context.Context, name string) (map[absenceKey]time.Time, error) {
	data, err := a.store.Record(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrDamaged) {
		return nil, err
	}
	return decodeAbsences(data), nil
}

// recordOf returns the name of the record that a key is in. No module path begins with
// an element without a dot.
func (a *absences) recordOf(ctx context.Context, key absenceKey) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.secret == nil {
		const name = "absent/secret"
		secret, err := a.store.Record(ctx, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrDamaged) {
			secret = []byte(rand.Text())
			err = a.store.SetRecord(ctx, name, secret)
		}
		if err != nil {
			return "", fmt.Errorf("secret for the names of absences: %w", err)
		}
		a.secret = secret
	}
	sum := sha256.Sum256(slices.Concat(a.secret, []byte(key.key)))
	return fmt.Sprintf("absent/%02x", sum[:1]), nil
}

// digest stands for a setting in a record.
func digest(setting string) string {
	sum := sha256.Sum256([]byte(setting))
	return fmt.Sprintf("%x", sum[:8])
}

// encodeAbsences returns the content of a record: a line for each absence, the newest
// first, with the time in seconds since 1970, the digest of the setting, and the key. The
// oldest are left out where it would be too large.
func encodeAbsences(kept map[absenceKey]time.Time) []byte {
	keys := make([]absenceKey, 0, len(kept))
	for key := range kept {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b absenceKey) int { return kept[b].Compare(kept[a]) })
	var data []byte
	for _, key := range keys {
		line := fmt.Appendf(nil, "%d %s %s\n", kept[key].Unix(), key.setting, key.key)
		if len(data)+len(line) > maxAbsenceRecord {
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
