package places

import "errors"

// Errors of claims. All are temporary: the same claim may succeed a little later.
var (
	// ErrClientFull says that the client may have no more waiting claims.
	ErrClientFull = errors.New("the client has too many claims waiting")

	// ErrFull says that too many claims of all clients are waiting.
	ErrFull = errors.New("too many claims are waiting")

	// ErrLate says that no place became free in time.
	ErrLate = errors.New("no place became free in time")

	// ErrYielded is the cause of the context of work that must give up its place.
	ErrYielded = errors.New("gave its place to others")

	// ErrLeft says that a waiting claim was dropped because its clients have left.
	ErrLeft = errors.New("no client waits any more")
)
