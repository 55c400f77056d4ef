package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/access"
)

// An authority is a certificate authority for a test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key := newECDSA(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{certificate, key}
}

func newECDSA(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a client's certificate with a common name and DNS names.
func (a authority) issue(t testing.TB, until time.Time, commonName string, dnsNames ...string) tls.Certificate {
	t.Helper()
	key := newECDSA(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: commonName}, DNSNames: dnsNames,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// answer is the result of Identify for a request.
type answer struct {
	id  access.Identity
	err error
}

// tlsServer serves TLS and returns what an authenticator says of requests.
func tlsServer(t testing.TB, a *access.Authenticator, clients authority, mode tls.ClientAuthType) (*httptest.Server, <-chan answer) {
	t.Helper()
	answers := make(chan answer, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		id, err := a.Identify(r)
		answers <- answer{id, err}
	}))
	pool := x509.NewCertPool()
	pool.AddCert(clients.certificate)
	s.TLS = &tls.Config{ClientAuth: mode, ClientCAs: pool}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail on purpose
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, answers
}

// call makes a request with a certificate, if there is one.
func call(t testing.TB, s *httptest.Server, certificate *tls.Certificate, authorization string) error {
	t.Helper()
	transport := s.Client().Transport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if certificate != nil {
		// Whatever certificates the server requests.
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(r)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	clients := newAuthority(t)
	later := time.Now().Add(time.Hour)
	config := access.Config{Certificates: true, Groups: write(t, "groups", "build: ci.corp.example alice\nops: alice\n"),
		Htpasswd: write(t, "htpasswd", entry(t, "bob", "right", 4))}
	s, answers := tlsServer(t, newAuthenticator(t, config), clients, tls.VerifyClientCertIfGiven)
	for _, tt := range []struct {
		name          string
		certificate   tls.Certificate
		authorization string
		want          string // kind, name and groups
		err           string
	}{
		{"common name", clients.issue(t, later, "alice"), "", "certificate alice build,ops", ""},
		{"DNS name first", clients.issue(t, later, "alice", "ci.corp.example", "other.corp.example"), "", "certificate ci.corp.example build", ""},
		{"no group", clients.issue(t, later, "carol"), "", "certificate carol ", ""},
		{"no name", clients.issue(t, later, ""), "", "  ", "no usable name"},
		{"two words", clients.issue(t, later, "Alice Smith"), "", "  ", "no usable name"},
		{"a long name", clients.issue(t, later, strings.Repeat("a", 256)), "", "  ", "no usable name"},
		{"a header goes first", clients.issue(t, later, "alice"), basic("bob", "right"), "basic bob ", ""},
		{"a wrong header too", clients.issue(t, later, "alice"), basic("bob", "wrong"), "  ", "wrong password for bob"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := call(t, s, &tt.certificate, tt.authorization); err != nil {
				t.Fatal(err)
			}
			got := <-answers
			if text := got.id.Kind + " " + got.id.Name + " " + strings.Join(got.id.Groups, ","); text != tt.want {
				t.Errorf("%q, %v; want %q", text, got.err, tt.want)
			}
			if (got.err != nil) != (tt.err != "") || got.err != nil && (!errors.Is(got.err, access.ErrRefused) || !strings.Contains(got.err.Error(), tt.err)) {
				t.Errorf("%v, want %q", got.err, tt.err)
			}
		})
	}
	if err := call(t, s, nil, ""); err != nil {
		t.Fatal(err)
	}
	if got := <-answers; got.err != nil || !got.id.Anonymous() {
		t.Errorf("without a certificate: %+v", got)
	}
	for name, certificate := range map[string]tls.Certificate{
		"another authority": newAuthority(t).issue(t, later, "alice"),
		"expired":           clients.issue(t, time.Now().Add(-time.Minute), "alice"),
	} {
		if err := call(t, s, &certificate, ""); err == nil {
			t.Errorf("%s: the connection was made, and is from %+v", name, <-answers)
		}
	}
}

// A certificate that crypto/tls has not verified, or that the configuration does not accept, is not
// a credential.
func TestCertificatesThatDoNotCount(t *testing.T) {
	t.Parallel()
	clients := newAuthority(t)
	certificate := clients.issue(t, time.Now().Add(time.Hour), "alice")
	for name, tt := range map[string]struct {
		config access.Config
		mode   tls.ClientAuthType
	}{
		"not wanted":   {access.Config{}, tls.VerifyClientCertIfGiven},
		"not verified": {access.Config{Certificates: true}, tls.RequireAnyClientCert},
	} {
		s, answers := tlsServer(t, newAuthenticator(t, tt.config), clients, tt.mode)
		if err := call(t, s, &certificate, ""); err != nil {
			t.Fatal(err)
		}
		if got := <-answers; got.err != nil || !got.id.Anonymous() || got.id.Name != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A connection can outlive the certificate with which it was made.
func TestCertificateExpiresWhileConnected(t *testing.T) {
	t.Parallel()
	clients := newAuthority(t)
	certificate := clients.issue(t, time.Now().Add(-time.Second), "alice")
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	r := request(t, "")
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf, clients.certificate}}}
	a := newAuthenticator(t, access.Config{Certificates: true})
	id, err := a.Identify(r)
	if !errors.Is(err, access.ErrRefused) || !strings.Contains(err.Error(), "expired") || !id.Anonymous() {
		t.Errorf("%+v, %v", id, err)
	}
	if got := counts(t, a); got["certificate refused"] != 1 || len(got) != 1 {
		t.Errorf("counted %v", got)
	}
}
