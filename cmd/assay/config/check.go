package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// LeastMemory is the smallest memory-budget, in MiB: with it each share has room for its largest
// single use. It is also in the tag of the setting.
const LeastMemory = 144

// check refuses settings that would be dangerous or without effect. It does not check what the
// parts check themselves (patterns, lists, keys).
func (c Config) check() error {
	v := reflect.ValueOf(c)
	for _, s := range Settings() {
		switch value := v.FieldByIndex(s.field.Index).Interface().(type) {
		case time.Duration:
			if value < 0 {
				return fmt.Errorf("%s is %v; it must not be negative", s.Name, value)
			}
			if value == 0 && s.Min > 0 {
				return fmt.Errorf("%s is %v; it must be positive", s.Name, value)
			}
		case int:
			if value < s.Min {
				return fmt.Errorf("%s is %d; it must be at least %d", s.Name, value, s.Min)
			}
			if value > s.Max {
				return fmt.Errorf("%s is %d; it must be at most %d", s.Name, value, s.Max)
			}
		}
	}
	if err := c.checkAddresses(); err != nil {
		return err
	}
	if c.Data == "" {
		return errors.New("data is empty; it must name a directory")
	}
	if !slices.Contains([]string{"text", "json"}, c.LogFormat) {
		return fmt.Errorf("log-format is %q; it must be text or json", c.LogFormat)
	}
	if _, err := parseLevel(c.LogLevel); err != nil {
		return err
	}
	if c.BreakerWindow < c.BreakerMinimum {
		return fmt.Errorf("breaker-window is %d and breaker-minimum %d; the window must be at least the minimum", c.BreakerWindow, c.BreakerMinimum)
	}
	if err := c.checkTogether(); err != nil {
		return err
	}
	return c.checkLists()
}

// checkAddresses refuses addresses and a prefix that cannot be served.
func (c Config) checkAddresses() error {
	for _, address := range [][2]string{{"listen", c.Listen}, {"metrics-listen", c.MetricsListen}} {
		name, text := address[0], address[1]
		if name == "metrics-listen" && text == "" {
			continue
		}
		if path, ok := Socket(text); ok {
			if !filepath.IsAbs(path) || len(path) > maxSocket {
				return fmt.Errorf("%s is %q; the path of a socket must be absolute, and have at most %d bytes", name, text, maxSocket)
			}
			continue
		}
		if _, port, err := net.SplitHostPort(text); err != nil || port == "" {
			return fmt.Errorf("%s is %q; it must be host:port, :port for all interfaces, or unix:/path of a socket", name, text)
		}
	}
	if !IsPrefix(c.Prefix) {
		return fmt.Errorf("prefix is %q; it must be a path like /go, of at most %d letters, digits and -._~/, and no element may be empty, . or .. as in /a/../b", c.Prefix, maxPrefix)
	}
	return nil
}

// maxSocket is the length of the longest path of a socket on every system.
const maxSocket = 100

// Socket returns the path of the socket in an address of listen, and false if the address has none.
func Socket(address string) (path string, ok bool) { return strings.CutPrefix(address, "unix:") }

// maxPrefix is the length of the longest prefix.
const maxPrefix = 200

// IsPrefix reports whether text can stand between the host of a URL and a path: "", or elements that
// need no quotes anywhere, each after a slash.
func IsPrefix(text string) bool {
	if text == "" {
		return true
	}
	if text[0] != '/' || len(text) > maxPrefix {
		return false
	}
	for element := range strings.SplitSeq(text[1:], "/") {
		if element == "" || element == "." || element == ".." || strings.ContainsFunc(element, notInPrefix) {
			return false
		}
	}
	return true
}

func notInPrefix(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._~", r)
}

// checkTogether refuses settings that need another one.
func (c Config) checkTogether() error {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls-cert and tls-key must be set together")
	}
	if c.TLSClientCA != "" && c.TLSCert == "" {
		return errors.New("tls-client-ca needs tls-cert and tls-key: client certificates need TLS")
	}
	if c.Store != "" && c.ReadOnly {
		return errors.New("read-only is for a store in the data directory, and store names one in a bucket; remove one of them")
	}
	if c.DiskLimit != 0 && c.StoreLimit != 0 {
		return errors.New("disk-limit and store-limit must not be set together: disk-limit bounds the whole data directory, and makes room by eviction")
	}
	if c.DiskAge != 0 && c.StoreLimit != 0 {
		return errors.New("disk-age and store-limit must not be set together: use disk-limit, which bounds the whole data directory, in place of store-limit")
	}
	if c.DiskAge != 0 && c.DiskAge < time.Second {
		return fmt.Errorf("disk-age is %v; it must be at least 1s, or 0 to evict nothing because of its age", c.DiskAge)
	}
	if c.Store != "" && c.StoreLimit != 0 {
		return errors.New("store-limit is for a store in the data directory, and store names one in a bucket; remove one of them")
	}
	switch {
	case c.LogKey != "" && (c.Store == "" || c.SingleReplica):
		return errors.New("log-key is for an own log that several servers share in a bucket; name the bucket with store, without single-replica, or remove log-key")
	case c.LogKey == "" && c.LogTrust:
		return errors.New("log-trust-bucket needs log-key: without it there is no own log in the bucket")
	case c.LogKey == "" && strings.HasPrefix(c.LogGuard, "s3://") && (c.Store == "" || c.SingleReplica):
		return errors.New("log-guard must be a file: a bucket is for a log in a bucket, with store and log-key")
	}
	if c.Unified && c.SumDB == "off" {
		return errors.New("unified needs a checksum database in sumdb: it verifies public modules before they are added")
	}
	return nil
}

// checkLists refuses malformed elements of lists.
func (c Config) checkLists() error {
	for _, names := range [][2]string{{"vcs", c.VCS}, {"vcs-hosts", c.VCSHosts}, {"redirect-hosts", c.RedirectHosts}, {"operators", c.Operators}} {
		name, text := names[0], names[1]
		if strings.ContainsFunc(text, unicode.IsSpace) || text != "" && len(List(text)) == 0 {
			return fmt.Errorf("%s is %q; it must be names separated by commas without spaces", name, text)
		}
	}
	for _, names := range [][2]string{{"vcs-hosts", c.VCSHosts}, {"redirect-hosts", c.RedirectHosts}} {
		for _, host := range List(names[1]) {
			if !isHost(host) {
				return fmt.Errorf("%s: %q is neither a host nor host:port", names[0], host)
			}
		}
	}
	if slices.Contains(List(c.Operators), "*") {
		return fmt.Errorf("operators is %q; * is not a group: name the groups that may read /-/leaks", c.Operators)
	}
	for network := range strings.SplitSeq(c.TrustedProxies, ",") {
		if _, err := netip.ParsePrefix(network); network != "" && err != nil {
			return fmt.Errorf("trusted-proxies: %q is not a network like 10.0.0.0/8 or 192.0.2.1/32", network)
		}
	}
	return nil
}

// isHost reports whether text is a host, as a name or an address, or host:port.
func isHost(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, "443"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}
