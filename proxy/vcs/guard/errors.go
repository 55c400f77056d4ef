package guard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/assay-proxy/assay/internal/descriptors"
	"github.com/assay-proxy/assay/internal/notfound"
)

// Errors that callers decide on.
var (
	// ErrCredential says that a host rejected our credential, requires one that is not
	// configured, or did not prove with its own key that it is the host we know.
	ErrCredential = errors.New("credential rejected")

	// ErrUnavailable is a failure of a host that says nothing about the module.
	ErrUnavailable = errors.New("version control host unavailable")

	// ErrForbidden says that a module path or a page leads to where this program does
	// not go: another scheme, an internal address, a version control system that is not
	// configured.
	ErrForbidden = errors.New("not allowed")
)

// HostError is an error of a host.
type HostError struct {
	Host string
	Err  error
}

func (e *HostError) Error() string { return e.Host + ": " + e.Err.Error() }

// Unwrap returns e.Err.
func (e *HostError) Unwrap() error { return e.Err }

// StatusError returns the meaning of a status for a repository or a page, nil for success.
func StatusError(status int) error {
	switch {
	case status < 400:
		return nil
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return ErrCredential
	case status == http.StatusTooManyRequests, status >= 500:
		return ErrUnavailable
	}
	return notfound.Stated
}

// RequestError returns the meaning of an error of a Client. It does not contain the URL.
func RequestError(err error) error {
	var (
		wrapped     *url.Error
		timeout     net.Error
		certificate *tls.CertificateVerificationError
	)
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without the URL
	}
	switch {
	case errors.Is(err, ErrForbidden), errors.Is(err, ErrUnavailable):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.DeadlineExceeded)
	case errors.As(err, &certificate):
		return fmt.Errorf("its certificate was rejected: %w", &unreachableError{err})
	}
	return &unreachableError{err}
}

// unreachableError says that there is no connection with a host. Clients read its text, so
// it is the same whether we refused the address, or the host refused or reset the
// connection, or does not exist: otherwise a page that names repositories could be used to
// scan the network around this machine. The log has the cause.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string {
	return ErrUnavailable.Error() + ": no connection, or a forbidden address; see the proxy's log"
}

// Unwrap tells a lack of file descriptors, which says nothing about any host.
func (e *unreachableError) Unwrap() []error {
	if descriptors.Exhausted(e.err) {
		return []error{ErrUnavailable, syscall.EMFILE}
	}
	return []error{ErrUnavailable}
}

// Hidden returns the cause that err does not show, because clients must not see it; nil if
// there is none. It is for the log.
func Hidden(err error) error {
	var unreachable *unreachableError
	if errors.As(err, &unreachable) {
		return unreachable.err
	}
	return nil
}
