package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/internal/egress"
	"github.com/assay-proxy/assay/proxy/fetch"
)

// inner is an internal service that must not be read.
type inner struct {
	*httptest.Server
	requests counter
}

// newInner starts a service on every address of this machine.
func newInner(t *testing.T, status int) *inner {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	i := &inner{}
	i.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.requests.next()
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "the secret of the inner service")
	}))
	i.Listener.Close()
	i.Listener = l
	i.Start()
	t.Cleanup(i.Close)
	return i
}

func (i *inner) port() string {
	_, port, _ := net.SplitHostPort(i.Listener.Addr().String())
	return port
}

// on returns the URL of the service at an address or a name.
func (i *inner) on(host string) string { return "http://" + net.JoinHostPort(host, i.port()) + "/x" }

// newUpstream starts an upstream that answers all requests except probes with a redirect to
// the result of to.
func newUpstream(t *testing.T, to func() string) string {
	t.Helper()
	server := httptest.NewServer(lives(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, to(), http.StatusFound)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// lanAddresses are those of this machine that are not of its loopback interface.
func lanAddresses(t *testing.T) (all []string) {
	t.Helper()
	own, err := egress.Machine()
	if err != nil {
		t.Fatal(err)
	}
	for addr := range own {
		if !addr.IsLoopback() && !addr.IsLinkLocalUnicast() {
			all = append(all, addr.String())
		}
	}
	return all
}

// An upstream cannot make us read an internal service, or scan the network: the client gets
// the same text for a refused address, and for one that refuses or resets the connection.
func TestRedirectInside(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusOK, http.StatusUnauthorized, http.StatusInternalServerError} {
		secret := newInner(t, status)
		targets := []string{
			secret.on("127.0.0.1"), secret.on("127.0.0.2"), secret.on("::1"), secret.on("::ffff:127.0.0.1"), secret.on("localhost"), secret.on("0.0.0.0"), secret.on("::"),
			"http://169.254.169.254/latest/meta-data/", "http://[::ffff:169.254.169.254]/latest/", "http://[fd00:ec2::254]/latest/", "http://[fe80::1]/",
			"http://10.255.255.1/", "http://192.168.255.254:8080/", "http://100.100.100.200/", "http://127.0.0.1:1/",
			"http://none.invalid/", "http://127.0.0.1:99999/", "ftp://127.0.0.1/",
		}
		for _, addr := range lanAddresses(t) {
			targets = append(targets, secret.on(addr))
		}
		to := ""
		var log bytes.Buffer
		upstream := newUpstream(t, func() string { return to })
		texts := map[string]bool{}
		for _, to = range targets {
			log.Reset()
			c := newChain(t, fetch.Config{List: upstream, Retries: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			_, _, err := c.ReadAll(t.Context(), "example.com/a/@v/v1.0.0.info", 1000)
			wantIs(t, err, fetch.ErrUnavailable)
			wantIsNot(t, err, fs.ErrNotExist, context.DeadlineExceeded)
			var e *fetch.Error
			if !errors.As(err, &e) || e.Detail != "" || e.Status != 0 {
				t.Errorf("to %s: %v", to, err)
			}
			if strings.HasPrefix(to, "ftp:") {
				continue // sent by the upstream itself
			}
			texts[e.Err.Error()] = true
			if u, err := url.Parse(to); err != nil || !strings.Contains(log.String(), u.Hostname()) {
				t.Errorf("to %s: the log does not say what happened: %s", to, &log)
			}
		}
		if len(texts) != 1 {
			t.Errorf("%d texts: %v", len(texts), texts)
		}
		if n := secret.requests.total(); n != 0 {
			t.Errorf("status %d: %d requests came to the service inside", status, n)
		}
	}
}

// Redirects to hosts that the administrator has named are followed to any address. Their
// error texts are not passed on to clients.
func TestRedirectHosts(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusOK, http.StatusForbidden, http.StatusNotFound, http.StatusInternalServerError} {
		secret := newInner(t, status)
		upstream := newUpstream(t, func() string { return secret.on("127.0.0.1") })
		for _, hosts := range [][]string{{"127.0.0.1"}, {"cdn.example", "127.0.0.1:" + secret.port()}} {
			before := secret.requests.total()
			data, _, err := newChain(t, fetch.Config{List: upstream, Retries: 1, RedirectHosts: hosts}).ReadAll(t.Context(), zipPath, 1000)
			if secret.requests.total() != before+1 {
				t.Errorf("%q: not followed", hosts)
			}
			if status == http.StatusOK {
				wantData(t, data, err, []byte("the secret of the inner service"))
			} else if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("status %d: %v", status, err)
			}
		}
		before := secret.requests.total()
		_, _, err := newChain(t, fetch.Config{List: upstream, Retries: 1, RedirectHosts: []string{"127.0.0.1:1", "cdn.example"}}).ReadAll(t.Context(), zipPath, 1000)
		wantIs(t, err, fetch.ErrUnavailable)
		if secret.requests.total() != before {
			t.Error("another port was followed")
		}
	}
}

// An internal upstream may redirect to another one of the list, and to itself, and so may a
// database that is asked directly.
func TestRedirectAmongUpstreams(t *testing.T) {
	t.Parallel()
	second := httptest.NewServer(text("good"))
	t.Cleanup(second.Close)
	first := newUpstream(t, func() string { return second.URL + "/moved" })
	data, _, err := newChain(t, fetch.Config{List: first + "|" + second.URL, Retries: 1}).ReadAll(t.Context(), zipPath, 100)
	wantData(t, data, err, []byte("good"))

	var requests counter
	self := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.next(); r.URL.Path == "/moved" {
			http.Error(w, "own words", http.StatusNotFound)
			return
		}
		http.Redirect(w, r, "/moved", http.StatusFound)
	}))
	t.Cleanup(self.Close)
	_, _, err = newChain(t, fetch.Config{List: self.URL}).ReadAll(t.Context(), zipPath, 100)
	var e *fetch.Error
	if !errors.As(err, &e) || e.Detail != "own words" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}

	secret := newInner(t, http.StatusOK)
	database := newUpstream(t, func() string { return secret.on("localhost") })
	lookup := newChain(t, fetch.Config{List: second.URL, Retries: 1}).SumDB("sum.example", database, false)
	_, err = lookup(t.Context(), "lookup/example.com/a@v1.0.0", 1000)
	wantIs(t, err, fetch.ErrUnavailable)
	if secret.requests.total() != 0 {
		t.Error("a database made us read a service inside")
	}
}

// publicConn is a connection that appears to be with an address of the internet.
type publicConn struct{ net.Conn }

func (publicConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.7:80"))
}

// An external upstream cannot redirect to an internal one, even to one of the list.
func TestRedirectFromOutside(t *testing.T) {
	t.Parallel()
	secret := newInner(t, http.StatusOK)
	outside := newUpstream(t, func() string { return secret.on("127.0.0.1") })
	c := newChain(t, fetch.Config{List: "http://outside.example," + strings.TrimSuffix(secret.on("127.0.0.1"), "/x"), Retries: 1})
	c.SetNamedDial(func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "outside.example:80" {
			t.Errorf("a connection with %s", address)
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(outside, "http://"))
		return publicConn{conn}, err
	})
	_, _, err := c.ReadAll(t.Context(), zipPath, 100)
	wantIs(t, err, fetch.ErrUnavailable)
	if secret.requests.total() != 0 {
		t.Error("an upstream outside led to one inside")
	}
}

// A redirect back to the upstream over another host is that host's choice: the request has
// no credentials, and its answer is not quoted.
func TestRedirectAndBack(t *testing.T) {
	t.Parallel()
	var upstream string
	var seen []string
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, upstream+"/other", http.StatusFound)
	}))
	t.Cleanup(between.Close)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization"))
		if r.URL.Path == "/other" {
			http.Error(w, "the secret of another repository", http.StatusNotFound)
			return
		}
		http.Redirect(w, r, between.URL, http.StatusFound)
	}))
	t.Cleanup(server.Close)
	upstream = server.URL
	c := newChain(t, fetch.Config{List: strings.Replace(upstream, "//", "//me:password@", 1), RedirectHosts: []string{"127.0.0.1"}})
	_, _, err := c.ReadAll(t.Context(), zipPath, 100)
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	if len(seen) != 2 || seen[1] != "/other " {
		t.Errorf("the upstream saw %q", seen)
	}
}

// A proxy of the environment resolves names itself; a numeric address is checked before.
func TestRedirectThroughProxy(t *testing.T) {
	t.Parallel()
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Host)
		_, _ = io.WriteString(w, "good")
	}))
	t.Cleanup(proxy.Close)
	through, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	to := ""
	upstream := newUpstream(t, func() string { return to })
	for _, test := range []struct {
		to string
		ok bool
	}{
		{"http://cdn.example/x", true}, {"http://198.51.100.7/x", true},
		{"http://169.254.169.254/x", false}, {"http://[::ffff:169.254.169.254]/x", false}, {"http://10.1.2.3/x", false}, {"http://2852039166/x", false}, {"http://0xa9fea9fe/x", false},
		{"http://metadata.localhost/x", false},
	} {
		asked, to = nil, test.to
		c := newChain(t, fetch.Config{List: upstream, Retries: 1})
		c.SetProxy(func(r *http.Request) (*url.URL, error) {
			if r.URL.Hostname() == "127.0.0.1" {
				return nil, nil
			}
			return through, nil
		})
		data, _, err := c.ReadAll(t.Context(), zipPath, 100)
		if test.ok {
			wantData(t, data, err, []byte("good"))
		} else {
			wantIs(t, err, fetch.ErrUnavailable)
		}
		if (len(asked) == 1) != test.ok {
			t.Errorf("to %s: the proxy was asked for %q", to, asked)
		}
	}
}

// A transfer that breaks after a redirect does not reveal addresses.
func TestRedirectBreaks(t *testing.T) {
	t.Parallel()
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = fmt.Fprint(w, "half")
		abort(w)
	}))
	t.Cleanup(cdn.Close)
	c := newChain(t, fetch.Config{List: newUpstream(t, func() string { return cdn.URL }), Retries: 1, RedirectHosts: []string{"127.0.0.1"}})
	_, _, err := c.ReadAll(t.Context(), zipPath, 100)
	wantIs(t, err, fetch.ErrUnavailable)
	if !strings.Contains(err.Error(), "the host that the upstream redirects to") {
		t.Errorf("%v", err)
	}
}
