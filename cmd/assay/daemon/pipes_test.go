package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/internal/watch"
)

// pipes is a server whose connections are pipes. In a bubble of synctest its time limits take no
// time, and no work of the server counts for them.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
	log   assaytest.Output
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.ended) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3000} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.conns <- server
	return client, nil
}

// connect returns a connection to the server and what it sends. Unlike a socket, a pipe holds
// nothing, so that is read at once.
func (p *pipes) connect() (net.Conn, *assaytest.Output) {
	conn, _ := p.dial(context.Background(), "", "") // never fails
	received := new(assaytest.Output)
	go io.Copy(received, conn)
	return conn, received
}

// startPipes starts a server with the settings that change makes.
func startPipes(t *testing.T, change func(*config.Config)) *pipes {
	t.Helper()
	c, _, err := config.Load(pflag.NewFlagSet("", pflag.ContinueOnError), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	c.Data, c.Upstream, c.SumDB = t.TempDir(), "off", "off"
	change(&c)
	p := &pipes{conns: make(chan net.Conn), ended: make(chan struct{})}
	d := newDaemon(c, &p.log)
	t.Cleanup(d.log.Close)
	const descriptors = 1000
	served := newConnections(d.memory.connections, connectionMemory, descriptors-reserved(descriptors))
	d.listener = newListener(p, descriptors, served, d.log.Logger)
	if err := d.open(t.Context(), Options{}, config.Sources{}); err != nil {
		t.Fatal(err)
	}
	server := d.front.newServer(c.AnswerTimeout)
	if d.certificates != nil {
		server.TLSConfig = d.certificates.server()
		go server.ServeTLS(d.listener, "", "")
	} else {
		go server.Serve(d.listener)
	}
	t.Cleanup(func() {
		server.Close()
		if err := d.proxy.Close(context.Background()); err != nil {
			t.Error(err)
		}
		d.close()
		time.Sleep(time.Second) // net/http lingers on a connection whose request it did not read
	})
	return p
}

// A header of 100 MB is refused after a few kilobytes. A header or body that arrives slowly affects
// only its own connection.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := startPipes(t, func(*config.Config) {})
		var wg sync.WaitGroup
		wg.Go(func() {
			conn, _ := p.connect()
			defer conn.Close()
			fmt.Fprintf(conn, "GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: ")
			chunk := bytes.Repeat([]byte("a"), 1<<20)
			sent := 0
			for range 100 {
				n, err := conn.Write(chunk)
				sent += n
				if err != nil {
					break
				}
			}
			if sent > 1<<20 {
				t.Errorf("the server read %d bytes of a header", sent)
			}
		})
		wg.Go(func() { // a header that never ends
			conn, _ := p.connect()
			defer conn.Close()
			begin := time.Now()
			fmt.Fprintf(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(conn, "X-%d: a\r\n", i); err != nil {
					break
				}
				time.Sleep(250 * time.Millisecond)
				if time.Since(begin) > headerTime+time.Second {
					t.Error("a header may take forever")
					return
				}
			}
		})
		wg.Go(func() { // a body that never ends
			conn, _ := p.connect()
			defer conn.Close()
			fmt.Fprintf(conn, "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
			begin := time.Now()
			for {
				if _, err := conn.Write([]byte("a")); err != nil {
					break
				}
				time.Sleep(250 * time.Millisecond)
				if time.Since(begin) > bodyTime+time.Second {
					t.Error("a body may take forever")
					return
				}
			}
		})
		client := &http.Client{Transport: &http.Transport{DialContext: p.dial}}
		defer client.CloseIdleConnections()
		for range 50 { // at the same time
			time.Sleep(100 * time.Millisecond)
			begin := time.Now()
			resp, err := client.Get("http://localhost:3000/livez")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if took := time.Since(begin); took > 0 {
				t.Errorf("another client waited %v", took)
			}
		}
		wg.Wait()
	})
}

// The memory of many webhooks that are not verified yet is bounded.
func TestHookCrowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "hook")
		if err := os.WriteFile(file, []byte("0123456789abcdef-secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := startPipes(t, func(c *config.Config) { c.HookSecret = file })
		var answers []*assaytest.Output
		for range maxHooks + 3 {
			conn, received := p.connect()
			defer conn.Close()
			fmt.Fprintf(conn, "POST /-/hooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nX-Hub-Signature-256: sha256=%s\r\n\r\n", maxHook, strings.Repeat("ab", 32))
			answers = append(answers, received)
		}
		synctest.Wait() // until the server does nothing more for them
		refused := 0
		for _, received := range answers {
			switch text := received.String(); {
			case strings.HasPrefix(text, "HTTP/1.1 503 "):
				refused++
			case text != "":
				t.Errorf("a webhook is answered before its body: %q", text)
			}
		}
		if refused != 3 {
			t.Errorf("%d webhooks are refused beside %d that are read, want 3", refused, maxHooks)
		}
	})
}

// The server loads a renewed certificate without a restart; an unusable one changes nothing, and is
// logged once.
func TestTLSRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		if err := assaytest.WriteCertificate(cert, key, "localhost"); err != nil {
			t.Fatal(err)
		}
		p := startPipes(t, func(c *config.Config) { c.TLSCert, c.TLSKey = cert, key })
		trusting := func() *http.Client { // trusts the current file
			data, err := os.ReadFile(cert)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(data)
			return &http.Client{Transport: &http.Transport{DialContext: p.dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
		}
		ask := func(client *http.Client) error {
			defer client.CloseIdleConnections() // the next request is for a new connection
			resp, err := client.Get("https://localhost:3000/livez")
			if err != nil {
				return err
			}
			return resp.Body.Close()
		}
		first := trusting()
		if err := ask(first); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cert, []byte("half a certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			time.Sleep(watch.Every)
			if err := ask(first); err != nil {
				t.Errorf("while the file is bad: %v", err)
			}
		}
		time.Sleep(time.Second) // until all lines are in the log
		if n := strings.Count(p.log.String(), "changed TLS files are invalid; the old ones stay in force"); n != 1 {
			t.Errorf("the log says %d times that the file is bad", n)
		}
		if err := assaytest.WriteCertificate(cert, key, "localhost"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(watch.Every)
		if err := ask(trusting()); err != nil {
			t.Errorf("with the renewed certificate: %v", err)
		}
		if err := ask(first); err == nil {
			t.Error("the old certificate is still shown")
		}
	})
}
