package vcstest

import (
	"net/http"
	"sync"
)

// login is basic authentication; without a user it is not required.
type login struct{ user, password string }

// ask reports whether the request may continue, and answers it if not.
func (l login) ask(rw http.ResponseWriter, r *http.Request) bool {
	if user, password, _ := r.BasicAuth(); l.user == "" || user == l.user && password == l.password {
		return true
	}
	rw.Header().Set("WWW-Authenticate", `Basic realm="corp"`)
	http.Error(rw, "who are you?", http.StatusUnauthorized)
	return false
}

// gitFront is the front of the git host, with its faults.
type gitFront struct {
	host *gitHost

	mu     sync.Mutex
	login  login         // required
	status int           // of every answer, 0 for the real one
	hang   chan struct{} // requests wait until it is closed, nil for no wait
	sent   int64         // bytes of bodies
}

func (f *gitFront) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	login, status, hang := f.login, f.status, f.hang
	f.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-r.Context().Done():
			return
		}
	}
	if status != 0 {
		http.Error(rw, "out of order", status)
		return
	}
	if login.ask(rw, r) && !f.host.redirect(rw, r) {
		f.host.ServeHTTP(counted{rw, f.count}, r)
	}
}

func (f *gitFront) count(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent += int64(n)
}

// counted is an answer whose bytes are counted.
type counted struct {
	http.ResponseWriter
	count func(n int)
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.count(n)
	return n, err
}

func (f *gitFront) setHang(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hang != nil {
		close(f.hang)
		f.hang = nil
	}
	if on {
		f.hang = make(chan struct{})
	}
}
