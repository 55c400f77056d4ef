package content

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/request"
)

// Client is the sender of a request. Its methods may check a credential, so they are
// called only when needed.
type Client interface {
	Key() string                   // places are shared by key
	Request() string               // the id of its request, for the log
	Site() string                  // memory is counted by site; needs no credential
	Keep(n int) error              // counts n bytes that stay in memory until the client has received the response
	HasCredential() bool           // whether it sent one, which may be wrong
	Covers(modulePath string) bool // whether its credential is valid for a module
	In(group string) bool
	Limited() bool // whether its credential is valid for some modules only
}

// predictionFor begins the Key of a prediction for a site. Places for clients and for predictions are
// told apart, and belong to the same site.
const predictionFor = "prediction for "

// Ask is a client's request for an object of a module, and the state of its access check.
type Ask struct {
	Client   Client
	Req      request.Request
	Path     string // of the protocol: Req.Path()
	HeldOnly bool   // it must not cause a fetch

	unsure  bool // the repository of the module, and so which clients may read it, is not known yet
	located bool // the repository was found for this request, and the client may read it

	take func(n int64) bool // of a prefetched object: takes n more bytes, if it may have them; nil: it may have any number
}

// Sure reports whether the repository of the module, and so which clients may read it, is
// known.
func (q *Ask) Sure() bool { return !q.unsure }

// Result says how a request was answered.
type Result uint8

const (
	Unknown   Result = iota // not answered yet
	Hit                     // from the store, current
	Stale                   // from the store, no longer current
	Miss                    // fetched for this request
	Coalesced               // fetched for an earlier request
	Negative                // a remembered absence
)

// claimOf returns the parameters of a claim to a place for req.
func claimOf(client string, req request.Request) places.For {
	host, _, _ := strings.Cut(req.Module, "/")
	return places.For{Client: client, Module: req.Module, Host: host}
}

// patient returns a context that ends when the client has waited that long.
func patient(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, wait, ErrTimeout)
}

// answerTime makes err an ErrTimeout if ctx, from patient, ended because the client has
// waited long enough.
func answerTime(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), ErrTimeout) {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}
