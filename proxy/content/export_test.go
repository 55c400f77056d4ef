package content

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// ParseVersions is parseVersions, which changes data.
func ParseVersions(modulePath string, data []byte) (Versions, error) {
	return parseVersions(modulePath, bytes.Clone(data))
}

// Hot notes n objects of size bytes each and returns how many bytes are kept with that
// limit.
func Hot(n, size, limit int) int {
	h := newHot(limit)
	for i := range n {
		h.put(fmt.Sprint(i), &HotObject{Content: make([]byte, size)})
	}
	return h.small.Used() + h.large.Used()
}

// Scan returns how many bytes are kept after an object was requested twice, and n others of size
// bytes once.
func Scan(n, size int) (before, after int) {
	h := newHot(8 << 20)
	request := func(path string) {
		if h.wants(path, int64(size)) {
			h.put(path, &HotObject{Content: make([]byte, size)})
		}
	}
	request("popular")
	request("popular")
	before = h.large.Used()
	for i := range n {
		request(fmt.Sprint(i))
	}
	return before, h.large.Used()
}

// Absences returns n remembered absences, with keys of size bytes.
func Absences(n, size int) any {
	a := newAbsent(absentFor, maxAbsent)
	for i := range n {
		key := fmt.Sprintf("%0*d", size, i)
		a.note(key, said(fmt.Errorf("%s: %w", key, notfound.Stated)), time.Now())
	}
	return a
}

// Indexes returns everything that a Server remembers about objects, at its limits and
// with the longest names.
func Indexes() any {
	long := func(of string, i, size int) string { return fmt.Sprintf("%s%0*d", of, size-len(of), i) }
	absences, known, compared, pushed := newAbsent(absentFor, maxAbsent), emptyInfos(), newPinned(nil, nil, zips{}, evidence{}), new(pushes)
	now := time.Now()
	for i := range maxAbsent {
		key := long("absent", i, maxAbsentKey)
		answered := &fetch.Error{Source: "https://upstream.example", Path: key[:len(key)-1] + "x", Status: 404, Detail: long("said", i, 200), Err: notfound.Stated}
		absences.note(key, said(fmt.Errorf("ask: %w", answered)), now)
	}
	for i := range maxInfos {
		known.note(long("info", i, maxAbsentKey), long("https://", i, 60), now)
	}
	for i := range maxChecked {
		compared.noteChecked(fmt.Sprint(i), request.Zip)
	}
	for i := range maxPushes {
		pushed.note([]string{long("git.example/", i, maxPushed)}, push{at: now})
	}
	noted := newAbsences(nil, slog.New(slog.DiscardHandler), time.Hour)
	for i := range maxNotedAbsences {
		noted.noted[absenceKey{"https://upstream.example", long("noted", i, maxAbsentKey)}] = now
	}
	return []any{absences, known, compared, pushed, noted}
}

// KeepAbsences keeps n absences of a client in a store, and returns when they are written.
func KeepAbsences(store storage.Store, client string, n int) {
	a := newAbsences(store, slog.New(slog.DiscardHandler), time.Hour)
	for i := range n {
		if len(a.noted) == maxNotedAbsences { // as if the pause had passed
			a.close()
			a.closing = make(chan struct{})
		}
		a.note(client, absenceKey{"https://upstream.example", fmt.Sprintf("example.com/%s/m%d/@v/list", client, i)}, time.Now())
	}
	a.close()
}

// Ahead fetches files that were predicted for a site.
func (l *Library) Ahead(ctx context.Context, site string, next ...request.Request) {
	expecting{l, l.Origin(next[0].Module), background{site}}.ahead(ctx, next)
}

// PutVersion proves and stores a version as a fill of its module does. The hash of all files is given.
func (l *Library) PutVersion(ctx context.Context, of module.Version, zip *os.File, hash string) error {
	o := l.Origin(of.Path)
	v := &version{
		Version: of, info: fmt.Appendf(nil, "{%q:%q}", "Version", of.Version), mod: []byte("module " + of.Path + "\n"),
		zip: zip, modHash: hash, zipHash: hash,
	}
	p, err := o.shelf.proof.prove(ctx, v)
	if err != nil {
		return err
	}
	return o.shelf.putVersion(ctx, v, p)
}

// EncodeAbsences returns the state of n absences with keys of size bytes.
func EncodeAbsences(n, size int) []byte {
	kept := map[absenceKey]time.Time{}
	for i := range n {
		kept[absenceKey{"0123456789abcdef", fmt.Sprintf("%0*d", size, i)}] = time.Now()
	}
	return encodeAbsences(kept)
}

// MaxClientAbsences and MaxAbsenceState are those constants.
const (
	MaxClientAbsences = maxClientAbsences
	MaxAbsenceState   = maxAbsenceState
)

// Arrive writes a zip of size bytes into a draft of the store, rate bytes per second, and
// returns how much had arrived when it was complete or aborted, and the error.
func Arrive(ctx context.Context, store storage.Store, size int64, rate int) (got int64, err error) {
	claim, err := places.New(places.Config{N: 1}).Claim(places.For{})
	if err != nil {
		return 0, err
	}
	draft, err := store.Draft(ctx, -1)
	if err != nil {
		return 0, err
	}
	arrived := newArrived(draft)
	defer arrived.release()
	a := newArrival(&fill{arrived: arrived, claim: claim, size: size})
	for a.got < size && err == nil {
		time.Sleep(time.Second)
		_, err = a.Write(make([]byte, min(int64(rate), size-a.got)))
	}
	return a.got, err
}

// SiteOfPrediction returns the site of predictions for a site.
func SiteOfPrediction(c Config, site string) string {
	return c.withDefaults().Site(background{site}.Key())
}

// Pause is pause.
type Pause struct{ pause }

// NewPause makes a Pause of all kinds for a Library that predicts, or for one that does not.
func NewPause(predicting bool) *Pause {
	return &Pause{pause{reason: unstorable, predicting: predicting}}
}

// NewZipPause makes a Pause of zips.
func NewZipPause() *Pause { return &Pause{pause{reason: noZips, predicting: true}} }

func (p *Pause) Note(err error, now time.Time) bool { return p.note(err, now) }
func (p *Pause) Lasts(now time.Time) bool           { return p.lasts(now) }
func (p *Pause) Begins() <-chan struct{}            { return p.begins() }

// LeaseTime makes a lease that does not change count for so long.
func (l *Library) LeaseTime(life time.Duration) { l.parts.replicas.leases.life = life }

// LeaseCount returns how many fetches ended with a result of the metric of leases.
func (l *Library) LeaseCount(result string) int {
	return int(testutil.ToFloat64(l.parts.replicas.leases.metrics.results.WithLabelValues(result)))
}

// LeaseOf returns the name of the state with the lease for a path.
func LeaseOf(path string) string { return newLease(path).name }

// TakeLease reports whether there is a lease for a path.
func (l *Library) TakeLease(ctx context.Context, path string) (got bool) {
	_, got = l.parts.replicas.leases.take(ctx, newLease(path))
	return got
}

// LeaseName returns the name of the lease for a path.
func LeaseName(path string) string { return newLease(path).name }

// LeaveLease creates the lease for a path that a killed replica leaves.
func LeaveLease(ctx context.Context, store storage.Store, path string) error {
	l := newLease(path)
	return store.SwapState(ctx, l.name, nil, l.value())
}

// NoteAbsences notes absences as bridge does, as a replica that shares the store or not.
func (l *Library) NoteAbsences(keys ...string) {
	for _, key := range keys {
		l.parts.absences.note("client", absenceKey{"https://upstream.example", key}, time.Now())
	}
}

// Absence returns when an absence was stated, the zero time if never.
func (l *Library) Absence(ctx context.Context, key string) (time.Time, error) {
	return l.parts.absences.find(ctx, absenceKey{"https://upstream.example", key})
}

// NoteDirect notes that a version came from its repository.
func NoteDirect(ctx context.Context, store storage.Store, of module.Version) error {
	return noteDirect(ctx, store, of)
}

// Patience returns how long a fill of a kind waits for another replica, if a client waits for an answer so long.
func Patience(kind request.Kind, answer time.Duration) time.Duration {
	f := &fills{parts: &parts{}}
	f.parts.options.times.Answer = answer
	return f.patience(request.Request{Kind: kind})
}
