package proxy

import (
	"time"

	"github.com/assay-proxy/assay/access"
)

// ErrorText returns the text that a client sees.
func ErrorText(what, why, next, requestID string) string {
	return failure{what: what, why: why, next: next}.body(requestID)
}

// NoteLeak notes a request of a client without credentials.
func (s *Server) NoteLeak(client string) {
	s.clients.leaks.note(client, NoCredential, "corp.example/x", time.Now())
	s.clients.leakState.changed()
}

// Hasten changes when work must yield its place. Call it before the first request.
func (s *Server) Hasten(silence, window time.Duration) {
	for name, p := range s.content.Places() {
		if name != "private" { // its work is never judged by its progress
			p.Judge(silence, window)
		}
	}
}

// ClientKey is clientKey of an anonymous client, or of the user if that is not "".
func ClientKey(user, remote string) string {
	id := access.Identity{Name: user}
	if user != "" {
		id.Kind = "basic"
	}
	return clientKey(&id, remote)
}
