package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"

	"github.com/assay-proxy/assay/storage"
)

const (
	// minRate is how many bytes a second a transfer must have on average, so that one that drips ends.
	minRate = 16 << 10

	// maxAnswer is the largest response that is not an object, maxList the largest list: 1,000 keys of
	// 1,024 bytes, each written as %XX, with what else is said of them.
	maxAnswer = 1 << 20
	maxList   = 5 << 20

	// idleTimeout is how long a connection may carry no byte while a request is under way.
	idleTimeout = time.Minute

	// attempts is how often a request is sent if the store is busy or does not answer.
	attempts = 5

	// firstDelay is the longest time before the second of them; it doubles with each, to maxDelay.
	firstDelay = 50 * time.Millisecond
	maxDelay   = 5 * time.Second
)

// newClient returns the client for a store.
func newClient(ctx context.Context, o Options, w *watch) (*sdk.Client, error) {
	client := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) { d.Timeout = silence }).
		WithTransportOptions(func(t *http.Transport) { configure(t, o) })
	conf, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(client), config.WithSharedConfigProfile(o.Profile),
		config.WithLogger(logging.Nop{})) // errors say it all
	if err != nil {
		return nil, err
	}
	return sdk.NewFromConfig(conf, func(s *sdk.Options) {
		s.HTTPClient = watched{limited{conf.HTTPClient}, w} // which may trust AWS_CA_BUNDLE now
		// Requests are repeated here: after a repetition by the SDK it could not be told whether the first
		// attempt was done.
		s.Retryer = aws.NopRetryer{}
		s.UsePathStyle = o.PathStyle
		// Records and contents have checksums of their own, and some servers refuse the trailers.
		s.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		s.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		if o.Endpoint != "" {
			s.BaseEndpoint = &o.Endpoint
		}
		if o.Region != "" {
			s.Region = o.Region
		}
		if s.Region == "" {
			s.Region = "us-east-1"
		}
	}), nil
}

// configure makes t the transport for a store.
func configure(t *http.Transport, o Options) {
	t.DialContext = dialIdle(t.DialContext)
	t.IdleConnTimeout = idleTimeout / 2 // before a read of an unused connection ends
	t.MaxIdleConnsPerHost = 64
	if o.RootCAs != nil {
		if t.TLSClientConfig == nil {
			t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		t.TLSClientConfig.RootCAs = o.RootCAs.Clone() // to which the SDK may add
	}
}

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

// dialIdle returns a dial whose connections fail when no byte moves for idleTimeout, in either direction:
// the answer to an upload comes long after its first byte was sent.
func dialIdle(dial dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return idleConn{conn}, nil
	}
}

type idleConn struct{ net.Conn }

func (c idleConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c idleConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(idleTimeout)) // also of the read that waits for the answer
	}
	return n, err
}

// limited limits responses that the SDK reads into memory.
type limited struct{ sdk.HTTPClient }

func (l limited) Do(r *http.Request) (*http.Response, error) {
	response, err := l.HTTPClient.Do(r)
	if err != nil {
		return nil, err
	}
	query := r.URL.Query()
	switch most := int64(maxAnswer); {
	case response.StatusCode < 300 && r.Method == http.MethodGet && (query.Has("list-type") || query.Has("uploads")):
		most = maxList
		fallthrough
	case response.StatusCode >= 300 || r.Method != http.MethodGet:
		response.Body = http.MaxBytesReader(nil, response.Body, most)
	}
	return response, nil
}

// status returns the status of the response that an error is from, 0 if there was none.
func status(err error) int {
	var response *awshttp.ResponseError
	if errors.As(err, &response) && response.Response != nil && response.Response.Response != nil {
		return response.HTTPStatusCode()
	}
	return 0
}

// code returns the code of S3 that an error has, such as NoSuchKey.
func code(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

// absent reports whether an error is the word of an object store that there is no such key. Another
// server that answers in its place says 404 too.
func absent(err error) bool { return status(err) == http.StatusNotFound && code(err) == "NoSuchKey" }

// errAnswer means that an answer is not one of an object store.
var errAnswer error = foreignAnswer{}

type foreignAnswer struct{}

func (foreignAnswer) Error() string { return "the answer is not one of an object store" }

// Is makes it an error of a store that is away, behind what answers in its place.
func (foreignAnswer) Is(target error) bool { return target == storage.ErrAway }

// retryable reports whether a request may succeed if it is sent again.
func retryable(err error) bool {
	var large *http.MaxBytesError
	if errors.Is(err, errAnswer) || errors.Is(err, errNotSent) || errors.Is(err, storage.ErrDamaged) || errors.As(err, &large) {
		return false
	}
	switch s := status(err); s {
	case 0:
		return code(err) == ""
	case http.StatusOK, http.StatusPartialContent: // the body broke off
		return true
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	default:
		return s >= 500 && s != http.StatusNotImplemented
	}
}

// patience returns how long a transfer of so many bytes may take.
func patience(size int64) time.Duration {
	return 2*idleTimeout + time.Duration(size/minRate)*time.Second
}

// delay returns how long to wait after an attempt, from 1: a random part of the longest time, so that
// those who met once do not meet again.
func delay(attempt int) time.Duration {
	longest := min(firstDelay<<min(attempt-1, 10), maxDelay)
	return longest/4 + rand.N(longest*3/4)
}

// pause waits after an attempt.
func pause(ctx context.Context, attempt int) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay(attempt)):
		return nil
	}
}
