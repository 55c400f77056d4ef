package fetch_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// flaky serves data in pieces: the first broken requests break after piece bytes.
type flaky struct {
	data   []byte
	piece  int
	broken int    // how many requests break; -1 for all
	stall  bool   // they stall instead of breaking
	header string // ETag
	date   string // Last-Modified
	plain  bool   // no ranges: each answer is a 200 from the beginning
	sized  bool   // Content-Length, or chunked
	edit   func(w http.ResponseWriter, r *http.Request, n int) bool

	requests counter
	ranges   []string // headers of the later ones
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := f.requests.next()
	h := w.Header()
	if f.header != "" {
		h.Set("ETag", f.header)
	}
	if f.date != "" {
		h.Set("Last-Modified", f.date)
	}
	f.ranges = append(f.ranges, r.Header.Get("Range")+" if "+r.Header.Get("If-Range"))
	from := 0
	if s, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !f.plain {
		from, _ = strconv.Atoi(strings.TrimSuffix(s, "-"))
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(f.data)-1, len(f.data)))
	}
	if f.sized {
		h.Set("Content-Length", strconv.Itoa(len(f.data)-from))
	}
	if f.edit != nil && f.edit(w, r, n) {
		return
	}
	if h.Get("Content-Range") != "" {
		w.WriteHeader(http.StatusPartialContent)
	}
	if f.broken >= 0 && n > f.broken {
		_, _ = w.Write(f.data[from:])
		return
	}
	_, _ = w.Write(f.data[from:min(from+f.piece, len(f.data))])
	if f.stall {
		_ = http.NewResponseController(w).Flush()
		hang(w, r)
	}
	abort(w)
}

const (
	etag    = `"h1:abc"`
	oldDate = "Mon, 02 Jan 2006 15:04:05 GMT"
)

func TestResume(t *testing.T) {
	data := noise(300_000)
	for _, test := range []struct {
		name     string
		server   *flaky
		requests int
		ranges   string // of the second request
	}{
		{"once", &flaky{piece: 1000, broken: 1, sized: true}, 2, "bytes=1000- if "},
		{"strong etag", &flaky{piece: 1000, broken: 1, sized: true, header: etag, date: oldDate}, 2, "bytes=1000- if " + etag},
		{"date", &flaky{piece: 1000, broken: 1, sized: true, header: "W/" + etag, date: oldDate}, 2, "bytes=1000- if " + oldDate},
		{"weak etag", &flaky{piece: 1000, broken: 1, sized: true, header: "W/" + etag}, 2, "bytes=1000- if "},
		{"often", &flaky{piece: 12_000, broken: 30, sized: true}, 25, "bytes=12000- if "},
		{"before the first byte", &flaky{piece: 0, broken: 4, sized: true}, 5, "bytes=0- if "},
		{"stalled", &flaky{piece: 1000, broken: 2, stall: true, sized: true}, 3, "bytes=1000- if "},
		{"no ranges", &flaky{piece: 1000, broken: 2, plain: true, sized: true}, 3, "bytes=1000- if "},
		{"no ranges, strong etag", &flaky{piece: 1000, broken: 2, plain: true, sized: true, header: etag}, 3, "bytes=1000- if " + etag},
		{"no size, strong etag", &flaky{piece: 1000, broken: 2, header: etag}, 3, "bytes=1000- if " + etag},
		{"no size, no ranges, strong etag", &flaky{piece: 1000, broken: 2, plain: true, header: etag}, 3, "bytes=1000- if " + etag},
		{"absent for a moment", &flaky{piece: 1000, broken: 1, sized: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Del("Content-Length")
			w.WriteHeader(404)
		})}, 3, "bytes=1000- if "},
		{"sick for a moment", &flaky{piece: 1000, broken: 1, sized: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Del("Content-Length")
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(503)
		})}, 3, "bytes=1000- if "},
		{"a shorter range", &flaky{piece: 1000, broken: 1, sized: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "500")
			w.Header().Set("Content-Range", "bytes 1000-1499/300000")
			w.WriteHeader(206)
			_, _ = w.Write(data[1000:1500])
		})}, 3, "bytes=1000- if "},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, server := newNetwork(t), test.server
				server.data = data
				n.serve("host", lives(server.ServeHTTP))
				c := n.list("http://host")
				got, err := read(t, c, zipPath)
				wantData(t, got, err, data)
				if server.requests.total() != test.requests || server.ranges[1] != test.ranges {
					t.Errorf("%d requests, the second %q, want %d and %q", server.requests.total(), server.ranges[1], test.requests, test.ranges)
				}
				if metric(t, c, "assay_upstream_broken_transfers_total", "upstream=http://host") == 0 ||
					metric(t, c, "assay_upstream_requests_total", "outcome=resumed") == 0 {
					t.Error("the metrics know nothing of it")
				}
			})
		})
	}
}

// onRequest makes a server answer its request k with f.
func onRequest(k int, f func(w http.ResponseWriter)) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, _ *http.Request, n int) bool {
		if n == k {
			f(w)
		}
		return n == k
	}
}

// set makes a server answer every request but the first with other headers.
func set(name, value string) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, _ *http.Request, n int) bool {
		if n > 1 {
			w.Header().Set(name, value)
		}
		return false
	}
}

// A transfer that cannot continue safely fails, with the bytes before intact, and never as
// absence.
func TestNoResume(t *testing.T) {
	data := noise(300_000)
	for _, test := range []struct {
		name     string
		server   *flaky
		requests int
	}{
		{"always broken, nothing more comes", &flaky{piece: 0, broken: -1, sized: true}, 6},
		{"changed: total", &flaky{piece: 1000, broken: 1, sized: true, edit: set("Content-Range", "bytes 1000-299999/300001")}, 2},
		{"changed: other etag", &flaky{piece: 1000, broken: 1, sized: true, header: etag, edit: set("ETag", `"other"`)}, 2},
		{"changed: other date", &flaky{piece: 1000, broken: 1, sized: true, date: oldDate, edit: set("Last-Modified", "Tue, 03 Jan 2006 15:04:05 GMT")}, 2},
		{"changed: other etag in a 200", &flaky{piece: 1000, broken: 1, sized: true, plain: true, header: etag, edit: set("ETag", `"other"`)}, 2},
		{"other place", &flaky{piece: 1000, broken: 1, sized: true, edit: set("Content-Range", "bytes 999-299999/300000")}, 2},
		{"other place, consistently", &flaky{piece: 1000, broken: 1, sized: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 999-299999/300000")
			w.Header().Set("Content-Length", "299001")
			w.WriteHeader(206)
			_, _ = w.Write(data[999:])
		})}, 2},
		{"longer than its range", &flaky{piece: 1000, broken: 1, sized: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Del("Content-Length")
			w.WriteHeader(206)
			_, _ = w.Write(data[1000:])
			_, _ = w.Write(data[:5])
		})}, 2},
		{"no Content-Range", &flaky{piece: 1000, broken: 1, sized: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Del("Content-Range")
			w.WriteHeader(206)
		})}, 2},
		{"length of part", &flaky{piece: 1000, broken: 1, sized: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(206)
			_, _ = io.WriteString(w, "12345")
		})}, 2},
		{"range not satisfiable", &flaky{piece: 1000, broken: 1, sized: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Del("Content-Length")
			w.WriteHeader(416)
		})}, 2},
		{"a 200 of another size", &flaky{piece: 1000, broken: 1, sized: true, plain: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "5000")
			_, _ = w.Write(data[:5000])
		})}, 2},
		{"a 200 without size", &flaky{piece: 1000, broken: 1, sized: true, plain: true, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Del("Content-Length")
			_, _ = w.Write(data)
		})}, 2},
		{"a part of a whole that nobody knows", &flaky{piece: 1000, broken: 1, header: etag, edit: onRequest(2, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "500")
			w.Header().Set("Content-Range", "bytes 1000-1499/*")
			w.WriteHeader(206)
			_, _ = w.Write(data[1000:1500])
		})}, 2},
		{"no size, no validator", &flaky{piece: 1000, broken: 1}, 1},
		{"no size, weak validator", &flaky{piece: 1000, broken: 1, header: "W/" + etag, date: oldDate}, 1},
		{"encoded on resume", &flaky{piece: 1000, broken: 1, sized: true, edit: set("Content-Encoding", "gzip")}, 2},
		{"absent forever", &flaky{piece: 1000, broken: 1, sized: true, edit: func(w http.ResponseWriter, _ *http.Request, n int) bool {
			if n > 1 {
				w.Header().Del("Content-Length")
				w.WriteHeader(404)
			}
			return n > 1
		}}, 6},
		{"drop by drop", &flaky{piece: 1, broken: -1, sized: true}, 6},
		{"three bytes each", &flaky{piece: 3, broken: -1, sized: true}, 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, server := newNetwork(t), test.server
				server.data = data
				n.serve("host", lives(server.ServeHTTP))
				got, err := read(t, n.list("http://host"), zipPath)
				wantIs(t, err, fetch.ErrUnavailable)
				wantIsNot(t, err, fs.ErrNotExist)
				if !bytes.HasPrefix(data, got) {
					t.Errorf("the %d bytes that came are not the beginning of the object", len(got))
				}
				if server.requests.total() != test.requests {
					t.Errorf("%d requests, want %d", server.requests.total(), test.requests)
				}
			})
		})
	}
}

// There are at most a hundred attempts, however many bytes each of them brings.
func TestManyResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, server := newNetwork(t), &flaky{piece: 8 << 10, broken: -1, sized: true, data: noise(1 << 20)}
		n.serve("host", lives(server.ServeHTTP))
		_, err := read(t, n.list("http://host"), zipPath)
		wantIs(t, err, fetch.ErrUnavailable)
		if server.requests.total() != 101 {
			t.Errorf("%d requests, want 101", server.requests.total())
		}
	})
}

// Answers with a wrong length, as bytes on the wire.
func TestFraming(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		want         string
		ok           bool
	}{
		{"short of its length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234", "", false},
		{"longer than its length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234567", "12345", true}, // the rest is not part of it
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n", "12345", true},
		{"chunked without its end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "", false},
		{"chunked, cut in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123", "", false},
		{"neither length nor end", "HTTP/1.1 200 OK\r\n\r\n12345", "", false},
		{"HTTP/1.0 without length", "HTTP/1.0 200 OK\r\n\r\n12345", "", false},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n12345", "12345", true},
		{"empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true},
		{"gzip", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n12345", "", false},
		{"identity", "HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 5\r\n\r\n12345", "12345", true},
		{"a part that was not asked for", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/5\r\nContent-Length: 5\r\n\r\n12345", "", false},
		{"no HTTP", "SSH-2.0-OpenSSH_9.6\r\n", "", false},
		{"nothing", "", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.raw("host", func(string) string { return test.answer })
				c := n.list("http://host")
				data, err := read(t, c, zipPath)
				if err == nil != test.ok || test.ok && string(data) != test.want {
					t.Errorf("Fetch: %q, %v, want %q, %v", data, err, test.want, test.ok)
				}
				all, _, err2 := c.ReadAll(t.Context(), zipPath, 100)
				if err2 == nil != test.ok || string(all) != test.want {
					t.Errorf("ReadAll: %q, %v, want %q, %v", all, err2, test.want, test.ok)
				}
				if !test.ok {
					wantIs(t, err, fetch.ErrUnavailable)
					wantIs(t, err2, fetch.ErrUnavailable)
				}
			})
		})
	}
}

func TestLimit(t *testing.T) {
	chunked := func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "12345")
	}
	for name, handler := range map[string]http.HandlerFunc{"declared": text("12345"), "chunked": chunked} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.serve("host", handler)
			c := n.list("http://host")
			for _, limit := range []int64{0, 4, 5, 6, 1<<63 - 1} {
				fits := limit >= 5
				object, err := c.Fetch(t.Context(), zipPath, limit)
				var data []byte
				if err == nil {
					data, err = io.ReadAll(object.Body)
					_ = object.Body.Close()
				}
				if err == nil != fits || int64(len(data)) > limit {
					t.Errorf("%s, limit %d: %q, %v", name, limit, data, err)
				}
				all, _, err2 := c.ReadAll(t.Context(), zipPath, limit)
				if err2 == nil != fits || fits && string(all) != "12345" {
					t.Errorf("%s, limit %d: ReadAll %q, %v", name, limit, all, err2)
				}
				if !fits {
					wantIs(t, err, fetch.ErrTooLarge)
					wantIs(t, err2, fetch.ErrTooLarge)
					wantIsNot(t, err, fetch.ErrUnavailable)
				}
			}
		})
	}
}

// A slow reader does not make the upstream idle.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, data := newNetwork(t), noise(100_000)
		server := &flaky{data: data, sized: true}
		n.serve("host", lives(server.ServeHTTP))
		object, err := n.list("http://host").Fetch(t.Context(), zipPath, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer object.Body.Close()
		var got []byte
		buf := make([]byte, 10_000)
		for err == nil {
			var k int
			time.Sleep(time.Minute)
			k, err = object.Body.Read(buf)
			got = append(got, buf[:k]...)
		}
		if err != io.EOF || !bytes.Equal(got, data) || server.requests.total() != 1 {
			t.Errorf("%d bytes, %v, %d requests", len(got), err, server.requests.total())
		}
	})
}

func TestBodyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		server := &flaky{data: noise(5000), piece: 1000, broken: -1, stall: true, sized: true}
		n.serve("host", lives(server.ServeHTTP))
		c := n.list("http://host")

		ctx, cancel := context.WithCancel(t.Context())
		object, err := c.Fetch(ctx, zipPath, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, cancel)
		begin := time.Now()
		_, err = io.ReadAll(object.Body)
		wantIs(t, err, context.Canceled)
		wantIsNot(t, err, fetch.ErrUnavailable)
		if d := time.Since(begin); d != time.Second {
			t.Errorf("the body ended after %v, want 1s", d)
		}
		_ = object.Body.Close()

		object, err = c.Fetch(t.Context(), zipPath, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { _ = object.Body.Close() })
		_, err = io.ReadAll(object.Body)
		wantIs(t, err, fs.ErrClosed)
		if _, err := object.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("Read after Close: %v", err)
		}
		if err := object.Body.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}
