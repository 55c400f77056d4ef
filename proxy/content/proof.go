package content

import (
	"context"
	"errors"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// proof proves the modules of an origin.
type proof interface {
	// vouchers returns who can vouch for the files of a kind that are of this origin, the
	// one by the settings in force first: that is where new ones are stored. The others
	// have vouched under earlier settings.
	vouchers(kind request.Kind) []storage.Voucher

	// check returns nil if a stored object of this origin can be served. The error is
	// errUnfit or storage.ErrDamaged if the object must be removed, errMiss if it must
	// only be replaced. This can need a lookup. c is nil in a fill, which already has its
	// place.
	check(ctx context.Context, c Client, req request.Request, object storage.Object) error

	// shows reports whether the proof of a held version is complete, so that its files can be served. A
	// version that is not shown is no held version for clients: it would hide older ones from @latest, and
	// be in lists although the go command cannot get it. What is shown once is always shown; what is not
	// shown can be shown later, without a change of the store.
	shows(of module.Version) bool

	// shown returns a number that changes when more versions are shown.
	shown() int64

	// prove proves a version from its repository, or returns how that is done when its files
	// are stored.
	prove(ctx context.Context, v *version) (proved, error)

	// source returns the source of a version, "" if it is no longer known.
	source(ctx context.Context, of module.Version) string

	// moved receives the current commit of the tag of a version.
	moved(ctx context.Context, modulePath string, now vcs.Info)
}

// proved has the proofs that the store keeps with a version's files.
type proved struct {
	files string // go.mod and zip
	info  string

	// pin, if it is not nil, completes the proof, and must be called before a file is stored. It
	// reports whether it has stored files too, which are some that depend on the proof.
	pin func(ctx context.Context, files pinlog.Dependents) (stored bool, err error)
}

// errUnfit says that a stored object must not be served.
var errUnfit = errors.New("stored object is invalid")
