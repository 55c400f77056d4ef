package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// maxRedirects is what the go command follows.
const maxRedirects = 10

// errRedirect says that an upstream redirects to where we do not follow.
var errRedirect = errors.New("redirect not followed")

// newTransport makes the one transport of a chain.
func newTransport(c Config) (*http.Transport, error) {
	roots, err := readRoots(c.CAFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: c.Budget.Connect, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   c.Budget.TLS,
		ResponseHeaderTimeout: c.Budget.FirstByte,
		ForceAttemptHTTP2:     true,
		// A connection that died in silence would swallow a request and its
		// retries too, for HTTP/2 puts them all on the same one.
		HTTP2: &http.HTTP2Config{SendPingTimeout: c.Budget.FirstByte / 2, PingTimeout: c.Budget.FirstByte / 4},
		// A fleet of clients starts many fills of one upstream at once.
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		// Transparent decompression hides the length of the body, without
		// which nothing can be resumed, and zips do not shrink.
		DisableCompression: true,
	}, nil
}

// readRoots returns the system's roots and those in file. It is nil, which means
// the system's, if file is empty.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a minimal container has none
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authorities: no PEM certificate in %s", file)
	}
	return roots, nil
}

// roundTrip sends a GET for target and follows redirects. The http.Client is not
// used: it sends credentials on to subdomains and other ports, a Referer to
// everybody, and quotes URLs in its errors.
func (u *upstream) roundTrip(ctx context.Context, target *url.URL, header http.Header) (*http.Response, error) {
	for hops := 0; ; hops++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("%w: not a URL", errRedirect)
		}
		req.Header = header.Clone()
		if u.authorization != "" && target.Scheme == u.base.Scheme && target.Host == u.base.Host {
			req.Header.Set("Authorization", u.authorization)
		}
		resp, err := u.client.transport.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		next, err := location(resp)
		if err == nil && next == nil {
			return resp, nil
		}
		discard(resp)
		switch {
		case err != nil:
			return nil, err
		case hops == maxRedirects:
			return nil, fmt.Errorf("%w: more than %d of them", errRedirect, maxRedirects)
		}
		target = next
	}
}

// location returns where resp redirects to, nil if it does not.
func location(resp *http.Response) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	value := resp.Header.Get("Location")
	if value == "" {
		return nil, nil // a 3xx like any other that is not a 200
	}
	from := resp.Request.URL
	next, err := from.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("%w: its Location is not a URL", errRedirect)
	}
	switch {
	case next.Host == "" || next.Scheme != "https" && next.Scheme != "http":
		return nil, fmt.Errorf("%w: to the scheme %q", errRedirect, printable(next.Scheme))
	case from.Scheme == "https" && next.Scheme == "http":
		return nil, fmt.Errorf("%w: from https to http, host %s", errRedirect, printable(next.Host))
	}
	next.User, next.Fragment, next.RawFragment = nil, "", ""
	return next, nil
}

// maxDiscard is what is read only to use a connection again; more than that takes
// longer than a new one.
const maxDiscard = 16 << 10

// discard reads what little there is of a body that nobody wants, so that its
// connection can be used again, and closes it.
func discard(resp *http.Response) {
	if resp.ContentLength <= maxDiscard {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDiscard)
	}
	_ = resp.Body.Close()
}

// escape returns path as the go command sends it in a URL.
func escape(path string) string {
	return strings.ReplaceAll(url.PathEscape(path), "%2F", "/")
}
