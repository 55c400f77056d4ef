package daemon

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/internal/watch"
)

// certificates are the TLS files. They are read again when they have changed, so that the program
// that renews them need not notify this one.
type certificates struct {
	cert, key, clientCA string // names of files; clientCA may be ""
	current             *watch.Value[*tls.Config]
}

// newCertificates reads the files.
func newCertificates(c config.Config, log *slog.Logger) (*certificates, error) {
	files := &certificates{cert: c.TLSCert, key: c.TLSKey, clientCA: c.TLSClientCA}
	watched := watch.Files[*tls.Config]{
		Names:   []string{c.TLSCert, c.TLSKey},
		Load:    files.load,
		Changed: func() { log.Info("TLS files reloaded", "cert", c.TLSCert) },
		Failed:  func(err error) { log.Error("changed TLS files are invalid; the old ones stay in force", "err", err) },
	}
	if c.TLSClientCA != "" {
		watched.Names = append(watched.Names, c.TLSClientCA)
	}
	files.current = watch.New(watched)
	commit, err := files.current.Prepare()
	if err != nil {
		return nil, err
	}
	commit()
	return files, nil
}

// server returns the configuration of a server that uses the newest files.
func (c *certificates) server() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Get(), nil },
	}
}

// http1 returns the configuration of a server that speaks only HTTP/1.1, nil if there are no
// certificates.
func (c *certificates) http1() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		current := c.current.Get().Clone()
		current.NextProtos = []string{"http/1.1"}
		return current, nil
	}}
}

// metrics returns the collector of the expiry. c may be nil.
func (c *certificates) metrics() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "assay_tls_certificate_expiry_timestamp_seconds",
		Help: "When the served certificate expires, in seconds since 1970; 0 without TLS. The authorities after it in the file do not count.",
	}, func() float64 {
		if c == nil {
			return 0
		}
		return expiry(c.current.Get().Certificates[0])
	})
}

// expiry returns when the server's own certificate expires, in seconds since 1970. Those after it in the file do not
// count: an authority that is signed by two others has a certificate of each, and clients need only one of them.
func expiry(chain tls.Certificate) float64 {
	own, err := x509.ParseCertificate(chain.Certificate[0])
	if err != nil { // then it would not have been loaded
		return 0
	}
	return float64(own.NotAfter.Unix())
}

// prepare reads the files again. commit puts them into force. Without certificates, prepare does
// nothing.
func (c *certificates) prepare() (commit func(), err error) {
	if c == nil {
		return func() {}, nil
	}
	return c.current.Prepare()
}

// load reads the files, and returns a checksum of their contents.
func (c *certificates) load() (made *tls.Config, sum string, err error) {
	if err := config.CheckMode(c.key, config.OthersAny); err != nil {
		return nil, "", fmt.Errorf("tls-key: %w", err)
	}
	cert, err := os.ReadFile(c.cert)
	if err != nil {
		return nil, "", fmt.Errorf("tls-cert and tls-key: %w", err)
	}
	key, err := os.ReadFile(c.key)
	if err != nil {
		return nil, "", fmt.Errorf("tls-cert and tls-key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, "", fmt.Errorf("tls-cert and tls-key: %w", err)
	}
	made = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{pair}}
	var authorities []byte
	if c.clientCA != "" {
		if authorities, err = c.loadAuthorities(made); err != nil {
			return nil, "", fmt.Errorf("tls-client-ca: %w", err)
		}
	}
	all := sha256.Sum256(slices.Concat(cert, []byte{0}, key, []byte{0}, authorities))
	return made, string(all[:]), nil
}

// loadAuthorities reads the authorities of client certificates into a configuration.
func (c *certificates) loadAuthorities(into *tls.Config) ([]byte, error) {
	if err := config.CheckMode(c.clientCA, config.OthersWrite); err != nil { // otherwise others could add authorities
		return nil, err
	}
	data, err := os.ReadFile(c.clientCA)
	if err != nil {
		return nil, err
	}
	into.ClientCAs = x509.NewCertPool()
	if !into.ClientCAs.AppendCertsFromPEM(data) {
		return nil, errors.New("no certificate in " + c.clientCA)
	}
	into.ClientAuth = tls.VerifyClientCertIfGiven // a client without a certificate is anonymous, as over http
	return data, nil
}
