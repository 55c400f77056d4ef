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

// Scope runs work that clients share and that continues when they leave.
type Scope struct {
	config  Config
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
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
	s := &Scope{config: c}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close waits for running work, at most until ctx ends; then it cancels the rest and
// waits for it.
func (s *Scope) Close(ctx context.Context) error {
	idle := make(chan struct{})
	go func() { s.running.Wait(); close(idle) }()
	defer s.cancel()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		s.cancel()
		<-idle
		return ctx.Err()
	}
}

// Go does work in a goroutine, with the context of the Scope. Only a running request, or
// work of the Scope, may call it: otherwise Close might not wait for the goroutine.
func (s *Scope) Go(do func(ctx context.Context)) {
	s.running.Go(func() { do(s.ctx) })
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
