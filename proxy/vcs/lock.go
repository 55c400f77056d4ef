package vcs

import (
	"context"
	"sync"
)

// keyedLock is a lock for each key. Waiting for it ends with a context.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func (l *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy, ok := l.held[key]
		if !ok {
			if l.held == nil {
				l.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			l.held[key] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryLock is lock without waiting.
func (l *keyedLock) tryLock(key string) (unlock func(), ok bool) {
	l.mu.Lock()
	_, busy := l.held[key]
	l.mu.Unlock()
	if busy {
		return nil, false
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	unlock, err := l.lock(ctx, key)
	return unlock, err == nil
}
