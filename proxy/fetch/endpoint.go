package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/assay-proxy/assay/internal/descriptors"
)

// endpoint is the address of an upstream, with its credentials. It creates the errors of the
// upstream, which never contain them.
type endpoint struct {
	base          *url.URL // without credentials
	label         string   // in metrics
	authorization string   // the value of the header, "" for none
	secrets       *strings.Replacer
}

func newEndpoint(base *url.URL, label string) *endpoint {
	bare := *base
	bare.User = nil
	e := &endpoint{base: &bare, label: label}
	var token string
	if base.User != nil {
		password, _ := base.User.Password()
		token = base64.StdEncoding.EncodeToString([]byte(base.User.Username() + ":" + password))
		e.authorization = "Basic " + token
	}
	e.secrets = maskOf(append(secretsOf(base), token))
	return e
}

// secretsOf returns the parts of base that must not be shown: its password, its user name where
// that is a token, its query and the values in it.
func secretsOf(base *url.URL) []string {
	secrets := []string{base.RawQuery}
	for key, values := range base.Query() {
		for _, value := range values {
			secrets = append(secrets, cmp.Or(value, key))
		}
	}
	password, _ := base.User.Password()
	if password == "" || password == "x-oauth-basic" {
		return append(secrets, base.User.Username())
	}
	return append(secrets, password)
}

// maskOf returns a replacer of secrets in any escaped form.
func maskOf(secrets []string) *strings.Replacer {
	var pairs []string
	for _, s := range secrets {
		if len(s) > 3 { // a shorter one would garble unrelated words
			pairs = append(pairs, s, "xxxxx", url.QueryEscape(s), "xxxxx", url.PathEscape(s), "xxxxx")
		}
	}
	return strings.NewReplacer(pairs...)
}

// url returns the URL of the object at path.
func (e *endpoint) url(path string) *url.URL {
	target := *e.base
	target.Path = strings.TrimSuffix(e.base.Path, "/") + "/" + path
	target.RawPath = strings.TrimSuffix(e.base.EscapedPath(), "/") + "/" + escape(path)
	return &target
}

// String returns the URL without credentials and query.
func (e *endpoint) String() string { return redactURL(e.base) }

// fail returns a transient failure that says nothing about the object.
func (e *endpoint) fail(path, outcome string, err error) *failure {
	return &failure{
		Error:   &Error{Source: e.String(), Path: path, Err: err},
		outcome: outcome, retry: true, blame: true,
	}
}

func (e *endpoint) timeout(path, what string) *failure {
	f := e.fail(path, outcomeTimeout, fmt.Errorf("%w: %w: %s", ErrUnavailable, context.DeadlineExceeded, what))
	f.lost, f.late = true, true
	return f
}

// broken returns the failure for err, an error of the transport. ctx is that of the request; its
// cause distinguishes our own time limits from a caller that left.
func (e *endpoint) broken(ctx context.Context, path string, err error) *failure {
	var (
		network net.Error
		away    *awayError
	)
	cause := context.Cause(ctx)
	switch {
	case cause == errSlow, cause == errIdle:
		return e.timeout(path, cause.Error())
	case cause != nil:
		return e.canceled(path, cause)
	case descriptors.Exhausted(err):
		return e.fail(path, outcomeUnavailable, fmt.Errorf("%w: %w", ErrUnavailable, syscall.EMFILE)).innocent()
	case !errors.As(err, &away) && errors.As(err, &network) && network.Timeout():
		return e.timeout(path, e.clean(err.Error()))
	}
	f := e.fail(path, outcomeUnavailable, fmt.Errorf("%w: %s", ErrUnavailable, e.clean(err.Error())))
	f.lost, f.blame = !errors.Is(err, errRedirect), !isOurs(err)
	f.late = errors.As(err, &network) && network.Timeout()
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
	)
	if errors.Is(err, errRedirect) || errors.As(err, &certificate) || errors.As(err, &authority) {
		return f.final()
	}
	return f
}

// clean returns text as one printable line without our credentials.
func (e *endpoint) clean(text string) string { return printable(e.secrets.Replace(text)) }

// words returns the first non-empty lines of text, without our credentials. Each line begins with
// the host, so that it cannot pass for a text of ours.
func (e *endpoint) words(text string) string {
	var lines []string
	room := maxWords
	for line := range strings.Lines(e.secrets.Replace(text)) {
		line = clip(e.secrets.Replace(onePrintableLine(line)), room)
		if line == "" {
			continue
		}
		lines = append(lines, e.base.Host+": "+line)
		if room -= len(line); len(lines) == maxLines || room < minWords {
			break
		}
	}
	return strings.Join(lines, "\n")
}

// tooLarge returns the failure of an object that is larger than its limit. The upstream works, and
// another attempt would not make the object smaller.
func (e *endpoint) tooLarge(path string, limit int64) *failure {
	return e.fail(path, outcomeTooLarge, fmt.Errorf("%w: the limit is %d bytes", ErrTooLarge, limit)).final().innocent()
}

// canceled returns the failure of a request that we ended or did not send, for a reason that says
// nothing about the upstream: the caller left, or we have no memory for the response.
func (e *endpoint) canceled(path string, err error) *failure {
	return e.fail(path, outcomeCanceled, err).final().innocent()
}
