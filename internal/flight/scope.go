package flight

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/internal/places"
)

// Config says how the work of a Scope runs. The zero value of every field is its default.
type Config struct {
	// Wait is how long work waits for a place. Default 20 s.
	Wait time.Duration

	// Prepare makes the context for work of a client when it gets its place. Default: the
	// context is unchanged.
	Prepare func(ctx context.Context, client string) context.Context

	// Panicked is called for each panic, with the key of the work, and returns the error
	// of the work. Default: the error of the panic.
	Panicked func(key string, p *panics.Error) error
}

// ErrClosed is the error for work that begins after Close.
var ErrClosed = errors.New("closed")

// Scope runs work that clients share and that continues when they leave.
type Scope struct {
	config Config
	ctx    context.Context
	cancel context.CancelFunc

	// A sync.WaitGroup cannot refuse work: Add must not be called after Wait.
	mu      sync.Mutex
	running int
	closing bool
	idle    chan struct{} // closed when closing is set and nothing is running
}

// NewScope makes a Scope; Close ends it.
func NewScope(c Config) *Scope {
	if c.Wait <= 0 {
		c.Wait = 20 * time.Second
	}
	if c.Prepare == nil {
		c.Prepare = func(ctx context.Context, _ string) context.Context { return ctx }
	}
	if c.Panicked == nil {
		c.Panicked = func(_ string, p *panics.Error) error { return p }
	}
	s := &Scope{config: c, idle: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close waits for running work, at most until ctx ends; then it cancels the rest and
// waits for it.
func (s *Scope) Close(ctx context.Context) error {
	defer s.cancel()
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		s.endIfIdle()
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		s.cancel()
		<-s.idle
		return ctx.Err()
	}
}

// endIfIdle makes Close return when nothing is running. The caller holds mu.
func (s *Scope) endIfIdle() {
	if s.closing && s.running == 0 {
		close(s.idle)
	}
}

// Go does work in a goroutine, with the context of the Scope. It does nothing and returns
// false if Close has waited for all work. So it never refuses work that running work of
// the Scope starts, but it can refuse that of a request that runs longer than Close.
func (s *Scope) Go(do func(ctx context.Context)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing && s.running == 0 {
		return false
	}
	s.running++
	go func() {
		defer s.done()
		do(s.ctx)
	}()
	return true
}

func (s *Scope) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.endIfIdle()
}

// Guard calls do and returns its error; if do panics, the error is that of
// Config.Panicked.
func (s *Scope) Guard(key string, do func() error) error {
	err := panics.Catch(do)
	var p *panics.Error
	if errors.As(err, &p) {
		return s.config.Panicked(key, p)
	}
	return err
}

// InPlace calls do when claim has its place, and then gives the place back. Without a
// claim it calls do at once. The error is one of package places if there was no place in
// time, or if the work had to yield its place.
func (s *Scope) InPlace(ctx context.Context, claim *places.Claim, do func(context.Context) error) error {
	if claim == nil {
		return do(ctx)
	}
	defer claim.Release()
	ctx, err := claim.Take(ctx, s.config.Wait)
	if err != nil {
		return err
	}
	err = do(s.config.Prepare(ctx, claim.Client()))
	if err != nil && context.Cause(ctx) == places.ErrYielded {
		return fmt.Errorf("%w: %v", places.ErrYielded, err)
	}
	return err
}
