package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// certificates are the files of TLS. They are read again when they have changed,
// so that the program that renews them need not know of this one.
type certificates struct {
	cert, key, clientCA string // names of files; clientCA may be ""
	log                 *slog.Logger

	mu      sync.Mutex
	config  *tls.Config
	looked  time.Time
	version string // of the files that config is from
	failed  string // what was logged about newer ones
}

// certificateAge is how often the files are looked at.
const certificateAge = time.Second

// newCertificates reads the files.
func newCertificates(c config.Config, log *slog.Logger) (*certificates, error) {
	files := &certificates{cert: c.TLSCert, key: c.TLSKey, clientCA: c.TLSClientCA, log: log}
	version := files.stat()
	config, err := files.load()
	if err != nil {
		return nil, err
	}
	files.config, files.version, files.looked = config, version, time.Now()
	return files, nil
}

// server returns the configuration of a server that uses the files of the day.
func (c *certificates) server() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current(), nil },
	}
}

// http1 returns the configuration of a server that speaks HTTP/1.1 alone, nil if there are
// no certificates at all.
func (c *certificates) http1() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		current := c.current().Clone()
		current.NextProtos = []string{"http/1.1"}
		return current, nil
	}}
}

// current returns what the files say. While they cannot be used, for instance
// because only one of two is written yet, it is what they said before.
func (c *certificates) current() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certificateAge {
		return c.config
	}
	c.looked = time.Now()
	version := c.stat()
	if version == c.version {
		c.failed = ""
		return c.config
	}
	config, err := c.load()
	if err != nil {
		if err.Error() != c.failed {
			c.failed = err.Error()
			c.log.Error("changed TLS files are invalid; the old ones stay in force", "err", err)
		}
		return c.config
	}
	c.config, c.version, c.failed = config, version, ""
	c.log.Info("TLS files reloaded", "cert", c.cert)
	return c.config
}

// prepare reads the files again. What they say is in force once commit is called. For
// no certificates at all that is nothing.
func (c *certificates) prepare() (commit func(), err error) {
	if c == nil {
		return func() {}, nil
	}
	version := c.stat()
	config, err := c.load()
	if err != nil {
		return nil, err
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.config, c.version, c.failed = config, version, ""
	}, nil
}

// stat returns a text that is another one when a file has changed.
func (c *certificates) stat() string {
	text := ""
	for _, name := range []string{c.cert, c.key, c.clientCA} {
		if info, err := os.Stat(name); err == nil {
			text += fmt.Sprintf("%d %d %v\n", info.Size(), info.ModTime().UnixNano(), info.Mode())
		}
	}
	return text
}

func (c *certificates) load() (*tls.Config, error) {
	if err := checkMode(c.key, othersAny); err != nil {
		return nil, fmt.Errorf("tls-key: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("tls-cert and tls-key: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{pair}}
	if c.clientCA == "" {
		return config, nil
	}
	if err := checkMode(c.clientCA, othersWrite); err != nil { // else others can add authorities
		return nil, fmt.Errorf("tls-client-ca: %w", err)
	}
	data, err := os.ReadFile(c.clientCA)
	if err != nil {
		return nil, fmt.Errorf("tls-client-ca: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(data) {
		return nil, errors.New("tls-client-ca: no certificate in " + c.clientCA)
	}
	// Who has none is anonymous, as over http.
	config.ClientAuth = tls.VerifyClientCertIfGiven
	return config, nil
}
