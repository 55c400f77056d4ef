// Package sumdb mirrors a checksum database and proves what it says.
//
// A Mirror keeps the newest tree head it has proved, the records it has proved
// to be included, and the tiles that prove them, and answers from these. It
// stores and returns only what it has verified: a record is exactly the record of
// the module that was asked for, its inclusion under our head is proved; a tile
// hashes up to the root; a head extends the head before it. A head that does not
// is a fork of the log: the evidence is written to a file, and the mirror goes on
// with what it has proved until an operator clears it.
//
// The design of the log is go.dev/design/25530-sumdb, its format
// go.dev/ref/mod#checksum-database. The arithmetic is x/mod's tlog and note.
// x/mod's sumdb.Client is not used: it remembers errors for the life of the
// process and evicts nothing.
package sumdb

import (
	"context"
	"errors"
)

// Errors that callers decide on. A module that the database does not know is
// notfound.Stated.
var (
	// ErrFrozen says that a fork was seen and no operator has cleared it: the
	// mirror answers what it has proved, and accepts nothing new.
	ErrFrozen = errors.New("checksum database is frozen after a fork")

	// ErrInvalid says that an answer of upstream does not verify. It is not cached.
	ErrInvalid = errors.New("not verified")

	// ErrBeyond says that a tile or record lies beyond our newest head, and
	// that no upstream could tell more.
	ErrBeyond = errors.New("beyond the newest verified tree head")
)

// FetchFunc gets the file at path below the root of the database: latest,
// lookup/<escaped path>@<escaped version>, tile/8/0/x001/234. Absence (404, 410)
// is notfound.Stated; a body of more than limit bytes is an error, a body cut
// short too. A nil FetchFunc stands for a mirror without upstream.
type FetchFunc func(ctx context.Context, path string, limit int64) ([]byte, error)
