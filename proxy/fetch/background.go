package fetch

import (
	"context"
	"sync"
)

// background is work that outlives the request that started it, until the chain is closed.
type background struct {
	ctx context.Context
	end context.CancelFunc

	mu      sync.Mutex // guards closed, and Add of running
	closed  bool
	running sync.WaitGroup
}

func newBackground() *background {
	b := &background{}
	b.ctx, b.end = context.WithCancel(context.Background())
	return b
}

// start runs work in a goroutine and returns true. Once the chain is closed it returns false.
func (b *background) start(work func(context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.running.Go(func() { work(b.ctx) })
	return true
}

// close cancels the work and waits for it.
func (b *background) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.end()
	b.running.Wait()
}
