// Package content holds, fetches, proves and lists modules. It knows no HTTP.
//
// A module comes from one of two origins, which Library.Origin chooses by the private
// patterns: the public one gets it from upstream proxies and proves it by a checksum
// database, the private one gets it from its repository and proves it by a log of our own.
// Nothing unproved leaves this package, or gets into the store, but what no database
// covers: a go.mod or a zip is compared with a record whose inclusion in the database was
// proved, or with what it was when it was first seen.
//
// The name of a module is sent to, and its content stored in, what package gate leads to, and
// nothing else.
package content

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// Library is all the content that there is. Its methods may be called at the same time.
type Library struct {
	parts *parts
	now   atomic.Pointer[snapshot]
}

// Settings are what Reload changes. VCS fetches private modules, and what the upstream list
// leaves to direct; without it a private module is served only if it is held.
type Settings struct {
	Upstream *fetch.Chain
	Policy   *privacy.Policy
	VCS      *vcs.Source // may be nil
}

// New makes a Library. It fails if its directories cannot be made, and with
// bindings.ErrLost if it cannot tell any more what its access rules protect.
func New(ctx context.Context, c Config, s Settings) (*Library, error) {
	p, err := newParts(ctx, c.withDefaults())
	if err != nil {
		return nil, err
	}
	l := &Library{parts: p}
	l.Reload(s)
	return l, nil
}

// Reload makes the Library work by other settings from now on. What is asked for after it joins nothing that is under
// way, and is told nothing that was remembered: a public module may be private now.
func (l *Library) Reload(s Settings) {
	l.now.Store(newSnapshot(l.parts, gate.NewSettings(s.Upstream, s.Policy, s.VCS), l.now.Load))
}

// Close waits for what is being fetched, at most until ctx ends; then it aborts
// what is left and waits for that. The store is not closed.
func (l *Library) Close(ctx context.Context) error {
	err := l.parts.scope.Close(ctx)
	l.parts.absences.close()
	l.parts.saveBindings(context.WithoutCancel(ctx))
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

// OwnName returns the name of our own log, which may not be served, "" if there is none.
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
			return &mirrored{m, l.parts, func() *lookups { return l.now.Load().lookups }}
		}
	}
	return nil
}

// Pushed says that a repository has changed, which goes by any of these URLs. The
// next request for a list, a latest version or a branch of its modules asks the
// repository, whatever is kept.
func (l *Library) Pushed(urls ...string) {
	now := l.now.Load()
	now.settings.Anew()
	l.parts.pushes.note(urls, time.Now())
	now.public.absent.clear()
	now.private.absent.clear()
}

// Metrics returns the collectors of the Library.
func (l *Library) Metrics() []prometheus.Collector {
	return append(l.parts.metrics.collectors(), newPlacesCollector(l.parts.rooms.byName()))
}

// Places returns the places in which work runs, by name.
func (l *Library) Places() map[string]*places.Places { return l.parts.rooms.byName() }
