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

// faults are by the name that a URL begins with.
var faults = map[string]fault{
	// Failures that say nothing about the object.
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

	// Wrong answers about modules.
	"tampered-zip": files(".zip", tamper),
	"tampered-mod": files(".mod", tamper),
	"html":         always(html),
	"html-modules": notSumDB(html),
	"wrong-info":   files(".info", wrongInfo),

	// Wrong answers of the checksum database.
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

func always(f fault) fault { return f }

// once makes a fault transient: each URL has it the first time.
func once(f fault) fault {
	return func(e *exchange) bool {
		return e.nth == 1 && f(e)
	}
}

// files confines a fault to paths that end in suffix.
func files(suffix string, f fault) fault {
	return func(e *exchange) bool {
		return strings.HasSuffix(e.path, suffix) && !strings.HasPrefix(e.path, "sumdb/") && f(e)
	}
}

// notSumDB confines a fault to modules.
func notSumDB(f fault) fault {
	return func(e *exchange) bool {
		return !strings.HasPrefix(e.path, "sumdb/") && f(e)
	}
}

// sumdb confines a fault to the database's files that begin with prefix;
// supported is correct unless it is named.
func sumdb(prefix string, f fault) fault {
	return func(e *exchange) bool {
		rest, ok := strings.CutPrefix(e.path, "sumdb/"+e.world.Log.Name()+"/")
		return ok && strings.HasPrefix(rest, prefix) && (rest != "supported" || prefix == rest) && f(e)
	}
}

func status(code int) fault {
	return func(e *exchange) bool {
		http.Error(e.rw, "the upstream says "+strconv.Itoa(code), code)
		return true
	}
}

// absentIs500 answers 500 for missing files.
func absentIs500(e *exchange) bool {
	return e.world.File(e.path) == nil && status(http.StatusInternalServerError)(e)
}

func limited(seconds string) fault {
	return func(e *exchange) bool {
		e.rw.Header().Set("Retry-After", seconds)
		http.Error(e.rw, "slow down", http.StatusTooManyRequests)
		return true
	}
}

func hang(e *exchange) bool {
	select {
	case <-e.world.closed:
	case <-e.r.Context().Done():
	}
	panic(http.ErrAbortHandler)
}

func reset(e *exchange) bool {
	conn, _, err := http.NewResponseController(e.rw).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // so that it is a reset
	}
	_ = conn.Close()
	return true
}

// breakOff sends half of the answer and no more, with a reset or silently.
func breakOff(withReset bool) fault {
	return func(e *exchange) bool {
		body := e.world.File(e.path)
		if body == nil {
			return false
		}
		begin := rangeStart(e.r)
		rest := body[min(begin, len(body)):]
		e.rw.Header().Set("Content-Length", strconv.Itoa(len(rest)))
		if begin > 0 {
			e.rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", begin, len(body)-1, len(body)))
			e.rw.WriteHeader(http.StatusPartialContent)
		}
		_, _ = e.rw.Write(rest[:len(rest)/2])
		_ = http.NewResponseController(e.rw).Flush()
		if withReset {
			return reset(e)
		}
		panic(http.ErrAbortHandler)
	}
}

func rangeStart(r *http.Request) int {
	from, _ := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	begin, _ := strconv.Atoi(strings.TrimSuffix(from, "-"))
	return begin
}

// norange makes a fault ignore ranges.
func norange(f fault) fault {
	return func(e *exchange) bool {
		e.r.Header.Del("Range")
		return f(e)
	}
}

// gated sends half and waits for OpenGate.
func gated(e *exchange) bool {
	body := e.world.File(e.path)
	if body == nil {
		return false
	}
	e.rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = e.rw.Write(body[:len(body)/2])
	_ = http.NewResponseController(e.rw).Flush()
	select {
	case <-e.world.gate:
	case <-e.world.closed:
		panic(http.ErrAbortHandler)
	case <-e.r.Context().Done():
		panic(http.ErrAbortHandler)
	}
	_, _ = e.rw.Write(body[len(body)/2:])
	return true
}

// slow takes a second for an answer.
func slow(e *exchange) bool {
	body := e.world.File(e.path)
	if body == nil {
		return false
	}
	e.rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
	const steps = 20
	for i := range steps {
		_, _ = e.rw.Write(body[len(body)*i/steps : len(body)*(i+1)/steps])
		_ = http.NewResponseController(e.rw).Flush()
		time.Sleep(time.Second / steps)
	}
	return true
}

// tamper changes one byte: in a zip of the content of its first file, which its hash
// covers, otherwise in the middle.
func tamper(e *exchange) bool {
	var body []byte
	if rest, ok := strings.CutPrefix(e.path, "sumdb/"+e.world.Log.Name()+"/"); ok {
		body, _ = e.world.Log.ServeFile(rest)
	} else {
		body = bytes.Clone(e.world.File(e.path))
	}
	if len(body) == 0 {
		return false
	}
	at := len(body) / 2
	if strings.HasSuffix(e.path, ".zip") {
		const header = 30 // of a file in a zip, without its name
		at = header + int(body[26]) + int(body[27])<<8
	}
	body[at] ^= 1
	e.reply(body, nil)
	return true
}

func html(e *exchange) bool {
	e.rw.Header().Set("Content-Type", "text/html")
	fmt.Fprint(e.rw, "<html><body><h1>Please log in</h1>\n<p>v1 to use the network</p></body></html>\n")
	return true
}

func wrongInfo(e *exchange) bool {
	if e.world.File(e.path) == nil {
		return false
	}
	e.reply([]byte(`{"Version":"v9.9.9","Time":"2020-01-02T03:04:05Z"}`), nil)
	return true
}

// wrongRecord answers a lookup with other hashes than those in the log.
func wrongRecord(e *exchange) bool {
	body, err := e.world.Log.ServeFile(strings.TrimPrefix(e.path, "sumdb/"+e.world.Log.Name()+"/"))
	if err == nil {
		lines := bytes.SplitAfter(body, []byte("\n"))
		for i, line := range lines {
			if at := bytes.Index(line, []byte(" h1:")); at >= 0 {
				lines[i] = append(bytes.Clone(line[:at]), " h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"...)
			}
		}
		body = bytes.Join(lines, nil)
	}
	e.reply(body, err)
	return true
}

// foreignRecord answers each lookup with the first record of the log.
func foreignRecord(e *exchange) bool {
	body, err := e.world.Log.ServeFile("tile/8/data/000.p/1")
	head, err2 := e.world.Log.ServeFile("latest")
	if err == nil {
		err = err2
	}
	e.reply(bytes.Join([][]byte{[]byte("0\n"), body, head}, nil), err)
	return true
}

// extraRecord inserts a line before the blank one that the record in the log does not have.
func extraRecord(e *exchange) bool {
	body, err := e.world.Log.ServeFile(strings.TrimPrefix(e.path, "sumdb/"+e.world.Log.Name()+"/"))
	body = bytes.Replace(body, []byte("\n\n"), []byte("\nexample.com/evil v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n"), 1)
	e.reply(body, err)
	return true
}

// shortTile is an error's text where a tile should be.
func shortTile(e *exchange) bool {
	fmt.Fprint(e.rw, "Not found")
	return true
}

// fork answers from another log with the same key.
func fork(e *exchange) bool {
	fork := e.world.fork("fork")
	if rest, ok := strings.CutPrefix(e.path, "sumdb/"+e.world.Log.Name()+"/lookup/"); ok {
		if _, err := fork.ServeFile("lookup/" + rest); err != nil {
			// Records that are not in the fork have the fork's head, too.
			body, err := e.world.Log.ServeFile("lookup/" + rest)
			head, _ := fork.ServeFile("latest")
			record, _, _ := bytes.Cut(body, []byte("\n\n"))
			e.reply(bytes.Join([][]byte{record, []byte("\n\n"), head}, nil), err)
			return true
		}
	}
	e.serve(fork)
	return true
}

// rollback answers from a smaller log that was never part of the real one.
func rollback(e *exchange) bool {
	fork := e.world.fork("rollback")
	if strings.HasSuffix(e.path, "/latest") {
		e.reply(fork.Head(2), nil)
		return true
	}
	if strings.Contains(e.path, "/lookup/") {
		body, err := e.world.Log.ServeFile(strings.TrimPrefix(e.path, "sumdb/"+e.world.Log.Name()+"/"))
		record, _, _ := bytes.Cut(body, []byte("\n\n"))
		e.reply(bytes.Join([][]byte{record, []byte("\n\n"), fork.Head(2)}, nil), err)
		return true
	}
	return false
}
