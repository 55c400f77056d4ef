package proxy

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/text"
)

// LeakKind says what a client did that it should not.
type LeakKind uint8

const (
	// PublicDatabase: it asked a public checksum database for a private name.
	// Without this proxy the name would be out.
	PublicDatabase LeakKind = iota

	// NoCredential: it asked for a module that only some may read, and did not
	// say who it is, or not in a way that could be believed.
	NoCredential

	numberOfLeakKinds
)

func (k LeakKind) String() string {
	return [...]string{"public_database", "no_credential"}[k]
}

// Leak is a client whose go command is not set up for private modules.
type Leak struct {
	Client      string // user, or address
	Kind        LeakKind
	Requests    int64
	First, Last time.Time
	Module      string // that it asked for last, 200 bytes of it at most
}

// leaks are the clients that were seen. They are in memory only.
type leaks struct {
	mu   sync.Mutex
	rows map[leakKey]*Leak
}

type leakKey struct {
	client string
	kind   LeakKind
}

// maxLeaks bounds the rows; the one that was quiet for longest goes.
const maxLeaks = 1000

func (l *leaks) note(client string, kind LeakKind, module string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := leakKey{client, kind}
	row := l.rows[key]
	if row == nil {
		if len(l.rows) >= maxLeaks {
			l.evict()
		}
		if l.rows == nil {
			l.rows = map[leakKey]*Leak{}
		}
		row = &Leak{Client: client, Kind: kind, First: now}
		l.rows[key] = row
	}
	row.Requests++
	row.Last, row.Module = now, strings.Clone(text.Clip(module, 200))
}

func (l *leaks) evict() {
	var oldest leakKey
	var since time.Time
	for key, row := range l.rows {
		if since.IsZero() || row.Last.Before(since) {
			oldest, since = key, row.Last
		}
	}
	delete(l.rows, oldest)
}

// list returns the rows, the latest first.
func (l *leaks) list() []Leak {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Leak
	for _, row := range l.rows {
		all = append(all, *row)
	}
	slices.SortFunc(all, func(a, b Leak) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Kind, b.Kind))
	})
	return all
}
