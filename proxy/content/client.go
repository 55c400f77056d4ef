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

// Client is for whom something is asked. Its methods may check a credential, so they are
// called only where that is needed.
type Client interface {
	Key() string                   // by which places are shared
	Request() string               // the id of its request, for the log
	Site() string                  // for which memory is counted; needs no credential
	Keep(n int) error              // counts n bytes that are held until the client has its answer
	HasCredential() bool           // whether it sent one, which nothing has checked yet
	Covers(modulePath string) bool // whether its credential is good for a module
	In(group string) bool
	Limited() bool // whether its credential is good for some modules only
}

// Ask is a question of a client about a module, and what is known about whether the client
// may have the answer.
type Ask struct {
	Client   Client
	Req      request.Request
	Path     string // of the protocol: Req.Path()
	HeldOnly bool   // nothing is to be fetched for it

	unsure  bool // where the module is, and so which clients may read it, is not known yet
	located bool // it is known for this question, and the client may have it
}

// Sure reports whether it is known where the module is, and so which clients may read it.
func (q *Ask) Sure() bool { return !q.unsure }

// Result says how a question was answered.
type Result uint8

const (
	Unknown   Result = iota // not answered yet
	Hit                     // from the store, current
	Stale                   // from the store, no longer current
	Miss                    // fetched for this request
	Coalesced               // fetched for another request that came first
	Negative                // remembered to be absent
)

// claimOf returns what a place for req is claimed for.
func claimOf(client string, req request.Request) places.For {
	host, _, _ := strings.Cut(req.Module, "/")
	return places.For{Client: client, Module: req.Module, Host: host}
}

// patient returns a context for what a client waits for at most that long.
func patient(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, wait, ErrTimeout)
}

// answerTime makes err the error of a client that has waited long enough, if
// that is why ctx, from patient, has ended.
func answerTime(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), ErrTimeout) {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}
