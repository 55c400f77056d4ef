package proxytest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// faults are the ways a world can be wrong, by the name that a URL begins with.
var faults = map[string]Fault{
	// Trouble that says nothing about the object.
	"503":         always(status(http.StatusServiceUnavailable)),
	"503-once":    once(status(http.StatusServiceUnavailable)),
	"500":         always(status(http.StatusInternalServerError)),
	"500-absent":  notSumDB(absentIs500),
	"403":         always(status(http.StatusForbidden)),
	"429":         always(limited("120")),
	"429-once":    once(limited("1")),
	"404":         always(status(http.StatusNotFound)),
	"404-modules": notSumDB(status(http.StatusNotFound)),
	"410":         always(status(http.StatusGone)),
	"hang":        always(hang),
	"hang-zip":    files(".zip", hang),
	"reset":       always(reset),

	"list-503": files("/@v/list", status(http.StatusServiceUnavailable)),

	// Transfers that break.
	"reset-mid":      files(".zip", once(breakOff(true))),
	"reset-mid-each": files(".zip", breakOff(true)),
	"truncated":      files(".zip", norange(breakOff(false))),
	"truncated-mod":  files(".mod", breakOff(false)),
	"gated":          files(".zip", gated),
	"slow":           files(".zip", slow),

	// Lies about modules.
	"tampered-zip": files(".zip", tamper),
	"tampered-mod": files(".mod", tamper),
	"html":         always(html),
	"html-modules": notSumDB(html),
	"wrong-info":   files(".info", wrongInfo),

	// Lies about the checksum database.
	"sumdb-503":       sumdb("", status(http.StatusServiceUnavailable)),
	"sumdb-hang":      sumdb("", hang),
	"sumdb-404":       sumdb("supported", status(http.StatusNotFound)),
	"sumdb-lost":      sumdb("lookup/", status(http.StatusNotFound)),
	"sumdb-html":      sumdb("", html),
	"sumdb-wrong":     sumdb("lookup/", wrongRecord),
	"sumdb-foreign":   sumdb("lookup/", foreignRecord),
	"sumdb-extra":     sumdb("lookup/", extraRecord),
	"sumdb-tile":      sumdb("tile/", tamper),
	"sumdb-short":     sumdb("tile/", shortTile),
	"sumdb-fork":      sumdb("", fork),
	"sumdb-rollback":  sumdb("", rollback),
	"sumdb-503-once":  sumdb("", once(status(http.StatusServiceUnavailable))),
	"sumdb-once-lost": sumdb("lookup/", once(status(http.StatusNotFound))),
}

func always(f Fault) Fault { return f }

// once makes a fault pass: each URL shows it the first time.
func once(f Fault) Fault {
	return func(w *World, rw http.ResponseWriter, r *http.Request, path string, nth int) bool {
		return nth == 1 && f(w, rw, r, path, nth)
	}
}

// files confines a fault to paths that end in suffix.
func files(suffix string, f Fault) Fault {
	return func(w *World, rw http.ResponseWriter, r *http.Request, path string, nth int) bool {
		return strings.HasSuffix(path, suffix) && !strings.HasPrefix(path, "sumdb/") && f(w, rw, r, path, nth)
	}
}

// notSumDB confines a fault to modules.
func notSumDB(f Fault) Fault {
	return func(w *World, rw http.ResponseWriter, r *http.Request, path string, nth int) bool {
		return !strings.HasPrefix(path, "sumdb/") && f(w, rw, r, path, nth)
	}
}

// sumdb confines a fault to the database's files that begin with prefix;
// supported is right unless it is named.
func sumdb(prefix string, f Fault) Fault {
	return func(w *World, rw http.ResponseWriter, r *http.Request, path string, nth int) bool {
		rest, ok := strings.CutPrefix(path, "sumdb/"+Database+"/")
		return ok && strings.HasPrefix(rest, prefix) && (rest != "supported" || prefix == rest) && f(w, rw, r, path, nth)
	}
}

func status(code int) Fault {
	return func(_ *World, rw http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
		http.Error(rw, "the upstream says "+strconv.Itoa(code), code)
		return true
	}
}

// absentIs500 says 500 for what the world does not have.
func absentIs500(w *World, rw http.ResponseWriter, r *http.Request, path string, n int) bool {
	return w.File(path) == nil && status(http.StatusInternalServerError)(w, rw, r, path, n)
}

func limited(seconds string) Fault {
	return func(_ *World, rw http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
		rw.Header().Set("Retry-After", seconds)
		http.Error(rw, "slow down", http.StatusTooManyRequests)
		return true
	}
}

func hang(w *World, _ http.ResponseWriter, r *http.Request, _ string, _ int) bool {
	select {
	case <-w.closed:
	case <-r.Context().Done():
	}
	panic(http.ErrAbortHandler)
}

func reset(_ *World, rw http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
	conn, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // so that it is a reset
	}
	_ = conn.Close()
	return true
}

// breakOff sends half of what was asked for and then no more, with a reset or in
// silence.
func breakOff(withReset bool) Fault {
	return func(w *World, rw http.ResponseWriter, r *http.Request, path string, _ int) bool {
		body := w.File(path)
		if body == nil {
			return false
		}
		begin := rangeStart(r)
		rest := body[min(begin, len(body)):]
		rw.Header().Set("Content-Length", strconv.Itoa(len(rest)))
		if begin > 0 {
			rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", begin, len(body)-1, len(body)))
			rw.WriteHeader(http.StatusPartialContent)
		}
		_, _ = rw.Write(rest[:len(rest)/2])
		_ = http.NewResponseController(rw).Flush()
		if withReset {
			return reset(w, rw, r, path, 0)
		}
		panic(http.ErrAbortHandler)
	}
}

func rangeStart(r *http.Request) int {
	from, _ := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	begin, _ := strconv.Atoi(strings.TrimSuffix(from, "-"))
	return begin
}

// norange makes a fault forget that something was asked for in part.
func norange(f Fault) Fault {
	return func(w *World, rw http.ResponseWriter, r *http.Request, path string, nth int) bool {
		r.Header.Del("Range")
		return f(w, rw, r, path, nth)
	}
}

// gated sends half and waits for OpenGate.
func gated(w *World, rw http.ResponseWriter, r *http.Request, path string, _ int) bool {
	body := w.File(path)
	if body == nil {
		return false
	}
	rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = rw.Write(body[:len(body)/2])
	_ = http.NewResponseController(rw).Flush()
	select {
	case <-w.gate:
	case <-w.closed:
		panic(http.ErrAbortHandler)
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
	_, _ = rw.Write(body[len(body)/2:])
	return true
}

// slow takes a second for what it sends.
func slow(w *World, rw http.ResponseWriter, _ *http.Request, path string, _ int) bool {
	body := w.File(path)
	if body == nil {
		return false
	}
	rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
	const steps = 20
	for i := range steps {
		_, _ = rw.Write(body[len(body)*i/steps : len(body)*(i+1)/steps])
		_ = http.NewResponseController(rw).Flush()
		time.Sleep(time.Second / steps)
	}
	return true
}

// tamper changes one byte: of a zip in the content of its first file, else in the
// middle. What else there is in a zip does not matter to its hash.
func tamper(w *World, rw http.ResponseWriter, r *http.Request, path string, _ int) bool {
	var body []byte
	if rest, ok := strings.CutPrefix(path, "sumdb/"+Database+"/"); ok {
		body, _ = w.Log.ServeFile(rest)
	} else {
		body = bytes.Clone(w.File(path))
	}
	if len(body) == 0 {
		return false
	}
	at := len(body) / 2
	if strings.HasSuffix(path, ".zip") {
		const header = 30 // of a file in a zip, without its name
		at = header + int(body[26]) + int(body[27])<<8
	}
	body[at] ^= 1
	reply(rw, r, body, nil)
	return true
}

func html(_ *World, rw http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
	rw.Header().Set("Content-Type", "text/html")
	fmt.Fprint(rw, "<html><body><h1>Please log in</h1>\n<p>v1 to use the network</p></body></html>\n")
	return true
}

func wrongInfo(w *World, rw http.ResponseWriter, r *http.Request, path string, _ int) bool {
	if w.File(path) == nil {
		return false
	}
	reply(rw, r, []byte(`{"Version":"v9.9.9","Time":"2020-01-02T03:04:05Z"}`), nil)
	return true
}

// wrongRecord answers a lookup with other hashes than those in the log.
func wrongRecord(w *World, rw http.ResponseWriter, r *http.Request, path string, _ int) bool {
	body, err := w.Log.ServeFile(strings.TrimPrefix(path, "sumdb/"+Database+"/"))
	if err == nil {
		lines := bytes.SplitAfter(body, []byte("\n"))
		for i, line := range lines {
			if at := bytes.Index(line, []byte(" h1:")); at >= 0 {
				lines[i] = append(bytes.Clone(line[:at]), " h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"...)
			}
		}
		body = bytes.Join(lines, nil)
	}
	reply(rw, r, body, err)
	return true
}

// foreignRecord answers each lookup with the first record of the log.
func foreignRecord(w *World, rw http.ResponseWriter, r *http.Request, _ string, _ int) bool {
	body, err := w.Log.ServeFile("tile/8/data/000.p/1")
	head, err2 := w.Log.ServeFile("latest")
	if err == nil {
		err = err2
	}
	reply(rw, r, bytes.Join([][]byte{[]byte("0\n"), body, head}, nil), err)
	return true
}

// extraRecord puts a line before the blank one, which the record in the log does
// not have.
func extraRecord(w *World, rw http.ResponseWriter, r *http.Request, path string, _ int) bool {
	body, err := w.Log.ServeFile(strings.TrimPrefix(path, "sumdb/"+Database+"/"))
	body = bytes.Replace(body, []byte("\n\n"), []byte("\nexample.com/evil v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n"), 1)
	reply(rw, r, body, err)
	return true
}

// shortTile is an error's text where a tile should be.
func shortTile(_ *World, rw http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
	fmt.Fprint(rw, "Not found")
	return true
}

// fork answers from another log with the same key.
func fork(w *World, rw http.ResponseWriter, r *http.Request, path string, _ int) bool {
	fork := w.fork("fork")
	if rest, ok := strings.CutPrefix(path, "sumdb/"+Database+"/lookup/"); ok {
		if _, err := fork.ServeFile("lookup/" + rest); err != nil {
			// What is not in the fork comes with the fork's head all the same.
			body, err := w.Log.ServeFile("lookup/" + rest)
			head, _ := fork.ServeFile("latest")
			record, _, _ := bytes.Cut(body, []byte("\n\n"))
			reply(rw, r, bytes.Join([][]byte{record, []byte("\n\n"), head}, nil), err)
			return true
		}
	}
	w.serve(rw, r, path, fork)
	return true
}

// rollback answers from a smaller log that was never a part of the true one.
func rollback(w *World, rw http.ResponseWriter, r *http.Request, path string, _ int) bool {
	fork := w.fork("rollback")
	if strings.HasSuffix(path, "/latest") {
		reply(rw, r, fork.Head(2), nil)
		return true
	}
	if strings.Contains(path, "/lookup/") {
		body, err := w.Log.ServeFile(strings.TrimPrefix(path, "sumdb/"+Database+"/"))
		record, _, _ := bytes.Cut(body, []byte("\n\n"))
		reply(rw, r, bytes.Join([][]byte{record, []byte("\n\n"), fork.Head(2)}, nil), err)
		return true
	}
	return false
}
