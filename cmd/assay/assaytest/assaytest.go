// Package assaytest is what the tests of the program share: its output, waiting for what it does,
// requests, certificates, and documents that are generated from the code.
//
// It is for tests only.
package assaytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Output keeps what a program writes, and can be read at the same time.
type Output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// WaitFor waits until ok, with a time limit for a busy machine. It calls ok less and less often: what is waited for needs
// the processor, too.
func WaitFor(t *testing.T, ok func() bool) {
	t.Helper()
	const longest = 250 * time.Millisecond
	pause := 10 * time.Millisecond
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(pause) {
		if ok() {
			return
		}
		pause = min(pause*3/2, longest)
	}
	t.Fatal("it has not come")
}

// Fetch returns the status and the body of a GET request.
func Fetch(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// WriteCertificate writes a self-signed certificate for a name, and its key. It is valid for an hour.
func WriteCertificate(certFile, keyFile, name string) error {
	return WriteCertificateUntil(certFile, keyFile, name, time.Now().Add(time.Hour))
}

// WriteCertificateUntil is WriteCertificate for a certificate that expires at a time.
func WriteCertificateUntil(certFile, keyFile, name string, expires time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: expires, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}), 0o600)
}

// ReadDoc returns the text of a document.
func ReadDoc(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// CompareDoc compares a document with want, which is generated from the code. If update, it writes
// the document first.
func CompareDoc(t *testing.T, name, want string, update bool) {
	t.Helper()
	if update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := ReadDoc(t, name); got != want {
		t.Errorf("%s is not what the code says; run this test with -update", name)
	}
}
