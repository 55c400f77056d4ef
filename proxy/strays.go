package proxy

import (
	"sync"
	"time"
)

// strays counts, for each client, the tiles beyond the end of a checksum database that it
// asked for and that the upstream did not have. A client with a signed head asks for
// tiles that exist; one that makes them up would make us ask for each.
type strays struct {
	mu      sync.Mutex
	clients map[string]stray
}

type stray struct {
	tiles int
	since time.Time
}

const (
	// strayTiles is how many such tiles a client may ask for within strayTime.
	strayTiles = 16
	strayTime  = time.Minute

	// maxStrays bounds the memory, at some hundred bytes each.
	maxStrays = 10000
)

// many reports whether the client has asked for too many.
func (s *strays) many(client string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[client]
	return c.tiles >= strayTiles && time.Since(c.since) < strayTime
}

// note counts one.
func (s *strays) note(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil || len(s.clients) >= maxStrays {
		s.clients = map[string]stray{}
	}
	c := s.clients[client]
	if time.Since(c.since) >= strayTime {
		c = stray{since: time.Now()}
	}
	c.tiles++
	s.clients[client] = c
}
