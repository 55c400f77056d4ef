package main

import (
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// visit is one request at a server.
type visit struct {
	path       string
	begin, end time.Time
	bytes      int64 // of the body of the response
}

// recorder is a server that remembers its requests.
type recorder struct {
	next http.Handler

	mu     sync.Mutex
	visits []*visit // in the order in which they began
}

func (rec *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	counted := &countingWriter{ResponseWriter: w}
	v := &visit{path: r.URL.Path, begin: time.Now()}
	rec.mu.Lock()
	rec.visits = append(rec.visits, v)
	rec.mu.Unlock()
	rec.next.ServeHTTP(counted, r)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	v.end, v.bytes = time.Now(), counted.n
}

// take returns the requests since the last call. One that has not ended has no end.
func (rec *recorder) take() []visit {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	visits := make([]visit, len(rec.visits))
	for i, v := range rec.visits {
		visits[i] = *v
	}
	rec.visits = nil
	return visits
}

// kind returns what is requested with a path: a suffix of a file of a module, "list", "@latest", or
// what a database is asked for.
func kind(file string) string {
	if rest, ok := strings.CutPrefix(file, "/sumdb/"); ok {
		_, rest, _ = strings.Cut(rest, "/")
		kind, _, _ := strings.Cut(rest, "/")
		return kind
	}
	if suffix := path.Ext(file); suffix == ".mod" || suffix == ".info" || suffix == ".zip" {
		return suffix
	}
	return path.Base(file)
}

// byKind counts requests by their kind.
func byKind(visits []visit) map[string]int {
	kinds := map[string]int{}
	for _, v := range visits {
		kinds[kind(v.path)]++
	}
	return kinds
}

// again returns the paths of requests for what an earlier one was for.
func again(visits []visit) (paths []string) {
	before := map[string]bool{}
	for _, v := range visits {
		if before[v.path] {
			paths = append(paths, v.path)
		}
		before[v.path] = true
	}
	return paths
}

// countingWriter counts the bytes of a body. It keeps the way by which a file is sent without being
// copied.
type countingWriter struct {
	http.ResponseWriter
	n int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

func (w *countingWriter) ReadFrom(from io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, from)
	w.n += n
	return n, err
}

func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
