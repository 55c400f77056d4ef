package content

import (
	"log/slog"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Config has the parts of a Library. Store is required; the zero value of every other
// field is its default.
type Config struct {
	Store storage.Store

	// Databases are the checksum databases that the Library mirrors, in the same Store.
	// Modules are verified with the first one; without any, the Library checks only that
	// modules are well-formed.
	Databases []*sumdb.Mirror

	// Log is the own log, in which the first content of each private version is pinned.
	// Without it there are no private modules.
	Log *pinlog.Log

	// Unified serves Log as a checksum database that covers public modules too: records
	// that the first of Databases has proved are copied into it.
	Unified  bool
	Scratch  string // directory for scratch files, which New removes
	Evidence string // directory for evidence

	Times  Times
	Memory Memory

	Fills Fills // hits never wait for them

	// News is the board of the replicas that share Store, whose Run the caller calls after New. Nil, and
	// news.Alone(), say that no other process uses Store.
	News *news.Board

	// Site returns the site of a client, see places.Config. Default: each client is a
	// site of its own.
	Site func(client string) string

	Logger *slog.Logger // default: discard
}

// Fills is how many objects, and how many zips, are fetched at the same time. Default 64 and 16.
type Fills struct{ Objects, Zips int }

// Times says how long clients wait, and how long answers are served.
type Times struct {
	// Answer is how long a client waits for a response, or for the first bytes of a large
	// one. Default 28 s: the go command waits forever, but developers and CI jobs do not.
	Answer time.Duration

	// Fresh is how long a list, a latest version or the commit of a branch
	// counts as current. Default 1 min, as the public mirror has it.
	Fresh time.Duration

	// Stale is how long such an answer is served while no upstream is reachable. Default
	// 7 days.
	Stale time.Duration

	// Patience is how long a client waits for a new answer when such an old one exists.
	// Default 5 s.
	Patience time.Duration

	// Ahead is how long the fetch of a predicted object may last that no client has requested.
	// Default 2 min: what one client may have then arrives at half a megabyte per second.
	Ahead time.Duration
}

// Memory limits the memory of a Library, by purpose. A request that does not fit waits. A
// nil budget is no limit.
type Memory struct {
	// Hot is how many bytes of often requested small objects, and of lists of held versions,
	// stay in memory. Default 16 MiB.
	Hot int64

	// Proofs is for hashing and checking zips, some 7 MiB each. Its holder waits only for
	// the disk, or for a checksum database, whose Mirror may have the same budget.
	Proofs *memory.Budget

	// Fetches is for objects other than zips, from the fetch until they are stored. Its
	// holder waits for Proofs, the upstream and the store.
	Fetches *memory.Budget
}

// withDefaults returns c with its zero values replaced by the defaults.
func (c Config) withDefaults() Config {
	setDefault(&c.Times.Answer, 28*time.Second)
	setDefault(&c.Times.Fresh, time.Minute)
	setDefault(&c.Times.Stale, 7*24*time.Hour)
	setDefault(&c.Times.Patience, 5*time.Second)
	setDefault(&c.Times.Ahead, 2*time.Minute)
	setDefault(&c.Fills.Objects, 64)
	setDefault(&c.Fills.Zips, 16)
	setDefault(&c.Memory.Hot, 16<<20)
	if c.News == nil {
		c.News = news.Alone()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Site == nil {
		c.Site = func(client string) string { return client }
	}
	site := c.Site
	c.Site = func(client string) string { return site(strings.TrimPrefix(client, predictionFor)) }
	return c
}

func setDefault[T comparable](value *T, to T) {
	var zero T
	if *value == zero {
		*value = to
	}
}
