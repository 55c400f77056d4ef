package s3_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// pipes is a network in memory, in which time is that of a synctest bubble: a dialer, and a listener.
type pipes struct {
	dialed chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{dialed: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.dialed <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialed:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// throughPipes calls do with a store whose server is handler, in a bubble of synctest.
func throughPipes(t *testing.T, handler http.HandlerFunc, do func(t *testing.T, db *s3.DB)) {
	throughPipesWith(t, s3.Options{}, handler, do)
}

// throughPipesWith is throughPipes with options, to which the bucket is added.
func throughPipesWith(t *testing.T, o s3.Options, handler http.HandlerFunc, do func(t *testing.T, db *s3.DB)) {
	o.Bucket, o.Prefix, o.Endpoint, o.PathStyle, o.Spool = "bucket", "store", "http://store.corp.example", true, t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		server := &http.Server{Handler: handler}
		served := make(chan error)
		go func() { served <- server.Serve(p) }()
		transport := &http.Transport{DialContext: p.dial}
		db, err := s3.OpenThrough(t.Context(), o, transport)
		if err != nil {
			t.Fatal(err)
		}
		do(t, db)
		db.Close()
		time.Sleep(2 * time.Hour) // handlers that sleep end
		transport.CloseIdleConnections()
		server.Close()
		<-served
	})
}

// drip returns a handler that answers as inner, with the headers at once and the body in pieces, with a pause before
// each.
func drip(inner http.Handler, pieces int, pause time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		inner.ServeHTTP(answer, r)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.(http.Flusher).Flush()
		body := answer.Body.Bytes()
		for i := range pieces {
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
			w.Write(body[len(body)*i/pieces : len(body)*(i+1)/pieces])
			w.(http.Flusher).Flush()
		}
	}
}

// A transfer that is slow and goes on is no failure, although it takes longer than a connection may be idle; one that
// stops ends after that time.
func TestSlowRead(t *testing.T) {
	t.Parallel()
	inner := s3test.Start(t)
	content := storagetest.Content(1, large)
	create(t, open(t, options(inner)), "key", content)
	inner.Fail(nil)
	throughPipes(t, drip(inner, 3, 40*time.Second), func(t *testing.T, db *s3.DB) {
		began := time.Now()
		expect(t, db, "key", content)
		// The record, and two reads of the content: of its first chunk, and of what follows.
		if n, took := inner.Requests(), time.Since(began); n != 3 || took != 3*120*time.Second {
			t.Errorf("%d requests in %v, want 3 of 120 s", n, took)
		}
	})
	inner.Fail(nil)
	throughPipes(t, drip(inner, 1, time.Hour), func(t *testing.T, db *s3.DB) {
		began := time.Now()
		if _, err := db.Stat(t.Context(), "key"); !errors.Is(err, storage.ErrAway) {
			t.Errorf("Stat = %v, want ErrAway", err)
		}
		n := time.Duration(inner.Requests())
		if took := time.Since(began); took < n*time.Minute || took > n*time.Minute+10*time.Second {
			t.Errorf("%d silent requests in %v, want a minute for each", n, took)
		}
	})
}

// The same for what is sent.
func TestSlowWrite(t *testing.T) {
	t.Parallel()
	inner := s3test.Start(t)
	const size = 3 << 20 / 2
	content := storagetest.Content(1, size)
	info := storage.Info{Key: "key", Size: size}
	sip := func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		for r.ContentLength > large {
			time.Sleep(50 * time.Second)
			if n, err := io.CopyN(&body, r.Body, 512<<10); n == 0 || err != nil {
				break
			}
		}
		io.Copy(&body, r.Body)
		r.Body = io.NopCloser(&body)
		inner.ServeHTTP(w, r)
	}
	throughPipes(t, sip, func(t *testing.T, db *s3.DB) {
		began := time.Now()
		if err := db.Create(t.Context(), info, bytes.NewReader(content)); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 150*time.Second {
			t.Errorf("it took %v: the transfer was not slow", took)
		}
	})
	expect(t, open(t, options(inner)), "key", content)

	info.Key = "silent"
	stop := func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > large {
			io.CopyN(io.Discard, r.Body, 64<<10)
			time.Sleep(time.Hour)
			panic(http.ErrAbortHandler)
		}
		inner.ServeHTTP(w, r)
	}
	inner.Fail(nil)
	throughPipes(t, stop, func(t *testing.T, db *s3.DB) {
		began := time.Now()
		if err := db.Create(t.Context(), info, bytes.NewReader(content)); !errors.Is(err, storage.ErrAway) {
			t.Errorf("Create = %v, want ErrAway", err)
		}
		n := time.Duration(inner.Requests("HEAD")) // one after each
		if took := time.Since(began); n == 0 || took < n*time.Minute || took > n*time.Minute+10*time.Second {
			t.Errorf("%d silent uploads in %v, want a minute for each", n, took)
		}
	})
}

// A reader of a large object has four requests under way: none is answered before the fourth has come.
func TestReadersAtOnce(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	db := open(t, options(server))
	content := storagetest.Content(1, 6<<20)
	create(t, db, "key", content)
	four := make(chan struct{})
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op != "GET" || !strings.HasPrefix(r.Key, "store/c/") {
			return s3test.Fault{}
		}
		if r.N == 1+4 { // the first GET is of the record
			close(four)
		}
		return s3test.Fault{Hold: four}
	})
	o, err := db.Open(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var got bytes.Buffer
	if _, err := o.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

// A store with https is used if its authority is one of ours, and is away otherwise.
func TestTLS(t *testing.T) {
	t.Parallel()
	server, ca := s3test.StartTLS(t)
	o := options(server)
	if !strings.HasPrefix(o.Endpoint, "https://") {
		t.Fatalf("endpoint %s", o.Endpoint)
	}
	stranger := open(t, o)
	if _, err := stranger.Stat(t.Context(), "key"); !errors.Is(err, storage.ErrAway) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Stat without the authority = %v, want ErrAway and what is wrong with the certificate", err)
	}
	if server.Requests() > 0 {
		t.Error("a request was sent to a server without a known authority")
	}
	o.RootCAs = x509.NewCertPool()
	o.RootCAs.AddCert(ca)
	db := open(t, o)
	if report, err := db.Probe(t.Context()); err != nil || report.Err() != nil {
		t.Errorf("Probe = %+v, %v", report, err)
	}
	content := storagetest.Content(1, inParts)
	create(t, db, "key", content)
	expect(t, db, "key", content)
}

// All that is written has the encryption of the options, and each request the region and the host name of the bucket.
func TestRequestsHaveOptions(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	o := s3.Options{Bucket: "bucket", Prefix: "store", Endpoint: "http://store.corp.example", Region: "eu-9",
		Encryption: "aws:kms", KMSKey: "alias/go", Spool: t.TempDir()}
	db, err := s3.OpenThrough(t.Context(), o, &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(server.URL, "http://"))
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	seen := map[string]bool{}
	server.Fail(func(r s3test.Request) s3test.Fault {
		seen[r.Op] = true
		if r.Host != "bucket.store.corp.example" || !strings.Contains(r.Header.Get("Authorization"), "/eu-9/s3/aws4_request") {
			t.Errorf("%s %s at %s, signed as %s", r.Op, r.Key, r.Host, r.Header.Get("Authorization"))
		}
		sse, key := r.Header.Get("X-Amz-Server-Side-Encryption"), r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id")
		if (r.Op == "PUT" || r.Op == "BEGIN") && (sse != "aws:kms" || key != "alias/go") {
			t.Errorf("%s %s is encrypted as %q with %q", r.Op, r.Key, sse, key)
		}
		return s3test.Fault{}
	})
	if report, err := db.Probe(t.Context()); err != nil || report.Err() != nil {
		t.Errorf("Probe = %+v, %v", report, err)
	}
	for _, size := range []int{10, large, inParts} {
		create(t, db, "key", storagetest.Content(1, size))
		expect(t, db, "key", storagetest.Content(1, size))
		if err := db.Delete(t.Context(), "key"); err != nil {
			t.Error(err)
		}
	}
	if _, err := db.Identity(t.Context(), true); err != nil {
		t.Error(err)
	}
	for range 3 {
		collect(t, db)
	}
	for _, op := range []string{"GET", "HEAD", "PUT", "DELETE", "LIST", "UPLOADS", "BEGIN", "PART", "COMPLETE"} {
		if !seen[op] {
			t.Errorf("no %s was sent", op)
		}
	}
}
