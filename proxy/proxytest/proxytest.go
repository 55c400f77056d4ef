// Package proxytest is the world outside for the tests of this program: an
// upstream proxy with its checksum database, whose URL's first element picks the
// fault that it shows, and which counts what it is asked.
//
//	world := proxytest.New(t)
//	world.Add(`...`)
//	upstream := world.URL("tampered-zip")
//
// It is for tests only.
package proxytest

import (
	"net/http/httptest"
	"testing"

	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// New starts a world without modules. It ends with the test.
func New(t testing.TB) *World { return NewWith(t, Database) }

// NewWith is New with another name for the checksum database.
func NewWith(t testing.TB, database string) *World {
	w := &World{
		faults: faults,
		Log:    sumdbtest.NewLog(t, database), t: t, closed: make(chan struct{}), gate: make(chan struct{}),
		files: map[string][]byte{}, counts: map[string]int{}, seen: map[string]int{},
		forks: map[string]*sumdbtest.Log{}, listing: map[string][]string{},
	}
	w.server = httptest.NewServer(w)
	t.Cleanup(func() {
		close(w.closed)
		w.server.CloseClientConnections()
		w.server.Close()
	})
	return w
}
