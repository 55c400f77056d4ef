// Package content holds, fetches, proves and lists modules. It knows no HTTP, except for the
// values of the headers Cache-Control and ETag, which depend on the origin and on the content.
//
// A module comes from one of two origins, which Library.Origin chooses by the private
// patterns: the public one gets it from upstream proxies and proves it with a checksum
// database, the private one gets it from its repository and proves it with the own log.
// Every go.mod and zip is compared with a record whose inclusion in the database was
// proved, or with its first content, before it leaves this package or enters the store.
// Only files that no database covers are not compared.
//
// The name of a module is sent only to upstreams, repositories and databases that package
// gate returns, and its content is stored only in the store that gate returns.
package content

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage/news"
)

// Library is all content. Its methods may be called concurrently.
type Library struct {
	parts     *parts
	now       atomic.Pointer[snapshot]
	predictor *predict.Predictor // nil: nothing is predicted
	parsing   parsing            // for predictions
}

// maxParsing is how many go.mod files may wait for being read, of which one is read at a time: an
// author of 64 KiB chooses that it takes 20 ms.
const maxParsing = 256

// parsing is the work of reading go.mod files.
type parsing struct {
	waiting chan struct{} // has an element for each go.mod
	mu      sync.Mutex    // held while one is read
}

// Settings are the settings that Reload changes. VCS fetches private modules, and the
// public ones for which the upstream list says direct; without it a private module is
// served only if it is held.
type Settings struct {
	Upstream *fetch.Chain
	Policy   *privacy.Policy
	VCS      *vcs.Source // may be nil
}

// New makes a Library. It fails if its directories cannot be made, and with
// bindings.ErrLost if it does not know any more what its access rules protect.
func New(ctx context.Context, c Config, s Settings) (*Library, error) {
	c = c.withDefaults()
	p, err := newParts(ctx, c)
	if err != nil {
		return nil, err
	}
	l := &Library{parts: p}
	l.Reload(s)
	c.News.Subscribe(pushKind, l.pushedElsewhere)
	return l, nil
}

// Reload makes the Library use other settings from now on. Later requests join no work
// under way, and get nothing from the memory of the old origins: a public module may now
// be private.
func (l *Library) Reload(s Settings) {
	for _, m := range l.parts.options.mirrors {
		m.Anew() // first, so that no request under the new settings joins earlier work
	}
	l.now.Store(newSnapshot(l.parts, gate.NewSettings(s.Upstream, s.Policy, s.VCS), l.now.Load))
}

// Close waits for fetches under way, except predictions for which no client waits, at most
// until ctx ends; then it aborts the remaining ones and waits for them. It does not close the store.
func (l *Library) Close(ctx context.Context) error {
	l.parts.rooms.stopPredicting()
	err := l.parts.scope.Close(ctx)
	l.parts.absences.close()
	l.parts.replicas.facts.save(context.WithoutCancel(ctx))
	return err
}

// Origin returns the origin of a module, by the settings in force.
func (l *Library) Origin(modulePath string) *Origin { return l.now.Load().origin(modulePath) }

// Origins returns both origins, by the settings in force.
func (l *Library) Origins() [2]*Origin {
	now := l.now.Load()
	return [...]*Origin{now.public, now.private}
}

// Offline reports whether there is no upstream at all.
func (l *Library) Offline() bool { return l.now.Load().settings.Offline() }

// Databases returns the names of the checksum databases of which there is a mirror.
func (l *Library) Databases() (names []string) {
	for _, m := range l.parts.options.mirrors {
		names = append(names, m.Name())
	}
	return names
}

// OwnName returns the name of the own log, "" if there is none. The log may not be
// served.
func (l *Library) OwnName() string {
	if l.parts.pinned == nil {
		return ""
	}
	return l.parts.pinned.log.Name()
}

// Database returns the checksum database with the name, nil if it is not served here.
func (l *Library) Database(name string) Database {
	if p := l.parts; p.options.unified && p.pinned.log.Name() == name {
		return &unified{p, func() *rules { return l.now.Load().rules }}
	}
	for _, m := range l.parts.options.mirrors {
		if m.Name() == name {
			return &mirrored{m, l.parts, func() *lookups { return l.now.Load().lookups }, func() *Origin { return l.now.Load().public }}
		}
	}
	return nil
}

// Pushed says that a repository, which has each of these URLs, has changed. The next
// request for a list, a latest version or a branch of its modules asks the repository,
// even if an answer is stored; other replicas know it within two seconds. After an error other replicas
// do not know it, and the caller should call Pushed again.
func (l *Library) Pushed(ctx context.Context, urls ...string) error {
	repos := pushedRepositories(urls)
	now := time.Now()
	l.notePushes(func(p *pushes) { p.note(repos, push{at: now}) }) // whatever happens to the store
	number, err := l.parts.replicas.announce(ctx, repos)
	if number > 0 {
		l.notePushes(func(p *pushes) { p.noteInstead(repos, push{number: number}, now) })
	}
	return err
}

// pushedElsewhere takes over what webhooks have told other replicas.
func (l *Library) pushedElsewhere(ctx context.Context, changes news.Changes) error {
	if changes.All {
		number, err := l.parts.replicas.lastPush(ctx)
		if err == nil {
			l.notePushes(func(p *pushes) { p.noteAll(number) })
		}
		return err
	}
	for _, subject := range changes.Subjects {
		number, repo, ok := parsePush(subject)
		if !ok {
			return l.pushedElsewhere(ctx, news.Changes{All: true})
		}
		if l.parts.replicas.pushes.of(repo).number < number { // otherwise this replica has posted it
			l.notePushes(func(p *pushes) { p.note([]string{repo}, push{number: number}) })
		}
	}
	return nil
}

// notePushes calls note, and lets no later request join earlier work or get an earlier absence.
func (l *Library) notePushes(note func(*pushes)) {
	l.now.Load().settings.Anew()
	note(l.parts.replicas.pushes)
	now := l.now.Load() // last: the origins of a reload may have joined earlier work meanwhile
	now.public.absent.clear()
	now.private.absent.clear()
}

// Metrics returns the collectors of the Library.
func (l *Library) Metrics() []prometheus.Collector {
	leases := l.parts.replicas.leases.metrics
	return append(l.parts.metrics.collectors(), newPlacesCollector(l.parts.rooms.byName()), newPredictionsCollector(l.predictor),
		leases.results, leases.waiting)
}

// Places returns the places in which work runs, by name.
func (l *Library) Places() map[string]*places.Places { return l.parts.rooms.byName() }
