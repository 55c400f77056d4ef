package main

import (
	"net/http"
	"sync"
	"time"
)

// link is the bandwidth that all responses of a server share.
type link struct {
	perSecond float64 // bytes; 0 if there is no limit

	mu   sync.Mutex
	free time.Time // when what was written so far has been sent
}

// send waits until n more bytes would have been sent.
func (l *link) send(n int) {
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.perSecond * float64(time.Second)))
	wait := l.free.Sub(now)
	l.mu.Unlock()
	// A shorter sleep takes longer than it should; what is not waited for now is waited for next.
	if wait > time.Millisecond {
		time.Sleep(wait)
	}
}

// limited returns w, or with a limit a writer that keeps to it.
func (l *link) limited(w http.ResponseWriter) http.ResponseWriter {
	if l.perSecond == 0 {
		return w
	}
	return &limitedWriter{w, l}
}

type limitedWriter struct {
	http.ResponseWriter
	link *link
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	const piece = 16 << 10
	for done := 0; ; {
		part := p[done:min(done+piece, len(p))]
		w.link.send(len(part))
		n, err := w.ResponseWriter.Write(part)
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
	}
}
