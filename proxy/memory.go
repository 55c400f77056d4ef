package proxy

import (
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/content"
)

// Memory limits the memory of a Server, by purpose. A request that does not fit waits, or
// gets a 503. A nil budget is no limit.
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

	// Answers is for responses that clients have not received yet.
	Answers *memory.Budget
}

// smallAnswer is the size up to which the memory of a response is not counted: each
// connection takes as much anyway.
const smallAnswer = content.HotSize

// ListMemory is how much of Memory.Fetches the largest list takes while it is cleaned and
// stored.
const ListMemory = content.ListMemory
