// Package descriptors tells a lack of file descriptors from other errors: it is a state of
// this process or machine, and says nothing about a host or a file.
package descriptors

import (
	"errors"
	"net"
	"strings"
	"syscall"
)

// Exhausted reports whether err says that this process or this machine has no file
// descriptor left. The resolver says it only in its text.
func Exhausted(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) && (strings.Contains(dns.Err, syscall.EMFILE.Error()) || strings.Contains(dns.Err, syscall.ENFILE.Error())) {
		return true
	}
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
