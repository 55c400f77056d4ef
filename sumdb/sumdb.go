// Package sumdb mirrors a checksum database and proves its statements.
//
// A Mirror keeps the newest tree head it has proved, the records it has proved to be included, and
// the tiles that prove them, and answers from these. It stores and returns only verified data: a
// record is exactly the record of the requested module, and its inclusion under our head is proved;
// a tile hashes up to the root; a head extends the head before it. A head that does not extend ours
// is a fork of the log: the mirror writes the evidence to a file and serves only the objects it has
// proved, until an administrator clears the evidence.
//
// The design of the log is go.dev/design/25530-sumdb, its format go.dev/ref/mod#checksum-database.
// The arithmetic is from tlog and note in x/mod. The Client of x/mod's sumdb is not used: it
// remembers errors for the life of the process and evicts nothing.
package sumdb

import (
	"context"
	"errors"
)

// Errors that callers distinguish. The error for a module that the database does not know is
// notfound.Stated.
var (
	// ErrFrozen means that a fork was seen and no administrator has cleared it: the mirror serves
	// the objects it has proved, and accepts nothing new.
	ErrFrozen = errors.New("checksum database is frozen after a fork")

	// ErrInvalid means that a response of upstream does not verify. It is not cached.
	ErrInvalid = errors.New("not verified")

	// ErrBeyond means that a tile or record lies beyond our newest head, and that no upstream has a
	// newer one.
	ErrBeyond = errors.New("beyond the newest verified tree head")
)

// FetchFunc fetches the file at path below the root of the database: latest, lookup/<escaped
// path>@<escaped version>, tile/8/0/x001/234. Absence (404, 410) is notfound.Stated. A body of more
// than limit bytes is an error, and so is a body that is cut short. A nil FetchFunc means that the
// mirror has no upstream.
type FetchFunc func(ctx context.Context, path string, limit int64) ([]byte, error)
