package proxy

import (
	"fmt"
	"os"
	"time"
)

// CleanList is cleanList.
func CleanList(modulePath string, data []byte) ([]byte, error) { return cleanList(modulePath, data) }

// ErrorText returns the text that a client reads.
func ErrorText(what, why, next, requestID string) string {
	return failure{what: what, why: why, next: next}.text(requestID)
}

// MaxEvidence is maxEvidence.
const MaxEvidence = maxEvidence

// Hot notes n objects of so many bytes each and returns how many bytes are kept, when
// limit may be.
func Hot(n, size, limit int) int {
	h := hot{limit: limit}
	for i := range n {
		h.note(fmt.Sprint(i), &hotObject{content: make([]byte, size)})
	}
	return h.bytes
}

// NoteLeak notes a request of a client without credentials.
func (s *Server) NoteLeak(client string) {
	s.leaks.note(client, NoCredential, "corp.example/x", time.Now())
}

// Absences returns n remembered absences, with keys of size bytes.
func Absences(n, size int) any {
	a := new(absent)
	for i := range n {
		key := fmt.Sprintf("%0*d", size, i)
		a.note(key, fmt.Errorf("%s: %w", key, os.ErrNotExist), false, time.Now())
	}
	return a
}
