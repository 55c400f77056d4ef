package content

import (
	"context"
	"errors"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// proof is what proves the modules of an origin.
type proof interface {
	// vouches reports whether a stored object is of this origin: a module can have been
	// of the other one when it was stored.
	vouches(info storage.Info) bool

	// check returns nil if an object that is stored, and vouched for, can be served.
	// The error is errUnfit or storage.ErrDamaged if it must be dropped, errMiss if it must
	// only be replaced. For a client, c, this can need a lookup; without one, for a fill, which
	// has its place already, too.
	check(ctx context.Context, c Client, req request.Request, object storage.Object) error

	// prove proves a version that came from its repository.
	prove(ctx context.Context, v *version) (proved, error)

	// source returns where a version came from, "" if that is not known any more.
	source(of module.Version) string

	// moved is told where the tag of a version is now.
	moved(modulePath string, now vcs.Info)
}

// proved is what goes into the store as the proof of a version's files.
type proved struct {
	files string // go.mod and zip
	info  string
}

// errUnfit says that an object must not be served.
var errUnfit = errors.New("stored object is invalid")
