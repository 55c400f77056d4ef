package fetch_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// After a firewall has forgotten its connections, idle ones lose all requests.
func TestDeadIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var forgotten atomic.Bool
		n := newNetwork(t)
		n.host("host:80", func(c net.Conn) {
			isOld := !forgotten.Load()
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					if isOld && forgotten.Load() {
						_, _ = io.Copy(io.Discard, c)
						return
					}
					time.Sleep(time.Millisecond)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
				}
			}()
		})
		c := n.list("http://host")
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				data, _, err := c.ReadAll(t.Context(), zipPath, 10)
				wantData(t, data, err, []byte("good"))
			})
		}
		all.Wait()
		forgotten.Store(true)
		begin := time.Now()
		data, err := read(t, c, zipPath)
		wantData(t, data, err, []byte("good"))
		if d := time.Since(begin); d > 9*time.Second {
			t.Errorf("took %v: more than one of the dead connections was tried", d)
		}
	})
}

// HTTP/2 uses one connection for all requests. If that is dead, a retry must use another
// one.
func TestDeadHTTP2Connection(t *testing.T) {
	t.Parallel()
	backend, ca := tlsServer(t, text("good"), true)
	target, _ := url.Parse(backend)
	var dead atomic.Bool
	relay := newRelay(t, target.Host, &dead)
	c := newChain(t, fetch.Config{List: "https://" + relay, CAFile: ca,
		Budget: fetch.Budget{FirstByte: 400 * time.Millisecond, Answer: 5 * time.Second}})
	data, err := read(t, c, zipPath)
	wantData(t, data, err, []byte("good"))
	dead.Store(true) // of the current connection, not of new ones
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if data, _, err := c.ReadAll(t.Context(), zipPath, 10); err != nil || string(data) != "good" {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
	all.Wait()
}

// newRelay forwards TCP connections to target. Connections from before dead was set are
// silent afterwards.
func newRelay(t *testing.T, target string, dead *atomic.Bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns { // an abandoned dial may have left one
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	pipe := func(to, from net.Conn, isOld bool) {
		defer to.Close()
		for buf := make([]byte, 32<<10); ; {
			k, err := from.Read(buf)
			if err != nil {
				return
			}
			if isOld && dead.Load() {
				continue
			}
			if _, err := to.Write(buf[:k]); err != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			isOld := !dead.Load()
			mu.Lock()
			conns = append(conns, client, server)
			mu.Unlock()
			all.Go(func() { pipe(server, client, isOld) })
			all.Go(func() { pipe(client, server, isOld) })
		}
	})
	return l.Addr().String()
}

// The environment is read once in a process, so this test starts one.
func TestProxyFromEnvironment(t *testing.T) {
	if list := os.Getenv("FETCH_TEST_LIST"); list != "" {
		c, err := fetch.New(fetch.Config{List: list})
		if err != nil {
			t.Fatal(err)
		}
		data, _, err := c.ReadAll(t.Context(), zipPath, 100)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("got %s", data)
		return
	}
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
		_, _ = io.WriteString(w, r.URL.Host+" through the proxy, "+user)
	}))
	t.Cleanup(proxy.Close)
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyFromEnvironment$", "-test.v")
	cmd.Env = append(os.Environ(), "FETCH_TEST_LIST=http://modules.example", "NO_PROXY=", "no_proxy=", "http_proxy=",
		"HTTP_PROXY="+strings.Replace(proxy.URL, "://", "://me:topsecret@", 1))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "got modules.example through the proxy, Basic") {
		t.Errorf("%v: %s", err, out)
	}
}
