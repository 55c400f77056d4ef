package proxy

import (
	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/memory"
)

// Memory bounds what a Server holds in memory, by what it is for. What does not fit
// waits, or gets 503. A nil budget is no bound.
type Memory struct {
	// Hot is how many bytes the small objects that are asked for again have.
	// Default 16 MiB.
	Hot int64

	// Proofs is to hash and check zips, some 7 MiB each. A holder waits for the
	// disk alone, or for a checksum database, whose Mirror may have the same.
	Proofs *memory.Budget

	// Fetches is for what is fetched, but zips, until it is stored. A holder
	// waits for Proofs, for the upstream and the store.
	Fetches *memory.Budget

	// Answers is for what clients have not taken yet.
	Answers *memory.Budget
}

// smallAnswer is how much an answer may keep in memory without being counted: as much
// as goes with a connection anyway.
const smallAnswer = hotSize

// parallelReads is how many kept answers are read at the same time. How large one is
// shows when it has been read.
const parallelReads = 8

// site returns the site that the address of the client is at, for which what it does not
// read is counted. It does not ask who the client is: a hit would have to check a
// credential.
func (a *answer) site() string { return SiteOf(a.remote(a.r)) }

// SiteOf returns the site of a client's address: memory is counted for it.
func SiteOf(remote string) string { return siteOf(clientKey(access.Identity{}, remote)) }

// keep counts n more bytes that are held until the client has taken the answer. The
// error is memory.ErrFull.
func (a *answer) keep(n int) error {
	if n <= smallAnswer {
		return nil
	}
	if a.held.Bytes() == 0 {
		a.held.Own(a.site())
	}
	return a.held.Try(a.held.Bytes() + int64(n))
}
