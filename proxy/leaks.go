package proxy

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/text"
)

// LeakKind is the kind of a client's mistake.
type LeakKind uint8

const (
	// PublicDatabase: it looked up a private name in a public checksum database. Without
	// this proxy the name would have leaked.
	PublicDatabase LeakKind = iota

	// NoCredential: it requested a module with access rules and sent no credential, or
	// one that could not be verified.
	NoCredential

	numberOfLeakKinds
)

func (k LeakKind) String() string {
	if k >= numberOfLeakKinds {
		return "unknown" // of a later version
	}
	return [...]string{"public_database", "no_credential"}[k]
}

// Leak is a client whose go command is not configured for private modules.
type Leak struct {
	Client      string // user, or address
	Kind        LeakKind
	Requests    int64
	First, Last time.Time
	Module      string // the last one that it requested, at most 200 bytes
}

// leaks are the misconfigured clients that this process has seen, see leakState for other replicas. A memo.Map does not fit:
// it may drop any entry, and these counts cannot be obtained again.
type leaks struct {
	mu   sync.Mutex
	rows map[leakKey]*Leak
}

type leakKey struct {
	client string
	kind   LeakKind
}

// maxLeaks limits the rows; the least recently seen row is removed.
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
	sortLeaks(all)
	return all
}

// sortLeaks sorts rows, the latest first.
func sortLeaks(all []Leak) {
	slices.SortFunc(all, func(a, b Leak) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Kind, b.Kind))
	})
}

// merged returns one row for each client and kind, the latest first.
func merged(rows []Leak) (all []Leak) {
	index := map[leakKey]int{}
	for _, row := range rows {
		key := leakKey{row.Client, row.Kind}
		at, known := index[key]
		if !known {
			index[key] = len(all)
			all = append(all, row)
			continue
		}
		sum := &all[at]
		sum.Requests += row.Requests
		if row.First.Before(sum.First) {
			sum.First = row.First
		}
		if row.Last.After(sum.Last) {
			sum.Last, sum.Module = row.Last, row.Module
		}
	}
	sortLeaks(all)
	return all
}
