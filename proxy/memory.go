package proxy

import (
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/content"
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
const smallAnswer = content.HotSize

// ListMemory is what the largest list takes of Memory.Fetches while it is cleaned
// and kept.
const ListMemory = content.ListMemory
