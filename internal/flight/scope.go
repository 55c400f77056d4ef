package flight

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/assay-proxy/assay/defect"
	"github.com/assay-proxy/assay/internal/places"
)

// Config says how the work of a Scope runs. The zero value of every field is its default.
type Config struct {
	// Wait is how long work waits for a place. Default 20 s.
	Wait time.Duration

	// Prepare makes the context of work for a client that is in its place. Default:
	// the context as it is.
	Prepare func(ctx context.Context, client string) context.Context

	// Panicked is told of each panic, with the key of its work. What it returns is the
	// error of the work. Default: that of the panic.
	Panicked func(key string, p *defect.Error) error
}

// Scope is where work runs that is shared by clients, and that therefore outlives them.
type Scope struct {
	config  Config
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// NewScope makes a Scope, which Close ends.
func NewScope(c Config) *Scope {
	if c.Wait <= 0 {
		c.Wait = 20 * time.Second
	}
	if c.Prepare == nil {
		c.Prepare = func(ctx context.Context, _ string) context.Context { return ctx }
	}
	if c.Panicked == nil {
		c.Panicked = func(_ string, p *defect.Error) error { return p }
	}
	s := &Scope{config: c}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close waits for what runs, at most until ctx ends; then it cancels what is left and
// waits for that.
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

// Go does work in a goroutine, with the context of the Scope. It is called by a request
// that runs, or by work of the Scope: else Close might not wait for it.
func (s *Scope) Go(do func(ctx context.Context)) {
	s.running.Go(func() { do(s.ctx) })
}

// Guard does work and returns its error, which is that of Config.Panicked if it panics.
func (s *Scope) Guard(key string, do func() error) error {
	err := defect.Catch(do)
	var p *defect.Error
	if errors.As(err, &p) {
		return s.config.Panicked(key, p)
	}
	return err
}

// InPlace does work when claim has its place, and gives the place back. Without a claim it
// does it at once. The error is one of package places if there was no place in time, or
// if the work had to stop because others needed the place more.
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
