package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/assay-proxy/assay/storage"
)

const (
	// idleTimeout is how long a connection may carry no byte while a request is under way. A transfer
	// that goes on has no limit.
	idleTimeout = 30 * time.Second

	// attempts is how often a request is sent if the store is busy or does not answer.
	attempts = 5

	// firstDelay is the longest time before the second of them; it doubles with each, to maxDelay.
	firstDelay = 50 * time.Millisecond
	maxDelay   = 5 * time.Second
)

// errTaken means that the condition of a put does not hold: the key has another record.
var errTaken = errors.New("the key has another record")

// bucket sends the requests. Its keys are those below the prefix of the store.
type bucket struct {
	client *sdk.Client
	http   *awshttp.BuildableClient
	name   string
	prefix string // ends with a slash, unless it is empty

	encryption types.ServerSideEncryption
	kmsKey     *string // nil: none
}

func newBucket(ctx context.Context, o Options) (*bucket, error) {
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.DialContext = dialIdle(t.DialContext)
		t.ResponseHeaderTimeout = idleTimeout
		t.IdleConnTimeout = idleTimeout / 2 // before a read of an unused connection ends
		t.MaxIdleConnsPerHost = 64
		if o.RootCAs != nil {
			if t.TLSClientConfig == nil {
				t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
			}
			t.TLSClientConfig.RootCAs = o.RootCAs
		}
	})
	conf, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(client), config.WithRetryer(func() aws.Retryer {
		return retry.NewStandard(func(s *retry.StandardOptions) {
			s.MaxAttempts = attempts
			s.RateLimiter = ratelimit.None // the attempts are few, and each waits
			s.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) { return delay(attempt), nil })
		})
	}))
	if err != nil {
		return nil, err
	}
	b := &bucket{http: client, name: o.Bucket, encryption: types.ServerSideEncryption(o.Encryption)}
	if o.Prefix != "" {
		b.prefix = o.Prefix + "/"
	}
	if o.KMSKey != "" {
		b.kmsKey = &o.KMSKey
	}
	b.client = sdk.NewFromConfig(conf, func(s *sdk.Options) {
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
	})
	return b, nil
}

func (b *bucket) close() { b.http.GetTransport().CloseIdleConnections() }

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

// dialIdle returns a dial whose connections fail when a read or a write makes no progress for
// idleTimeout.
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
	if err := c.SetWriteDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (b *bucket) key(key string) *string { return aws.String(b.prefix + key) }

// status returns the status of the response that an error is from, 0 if there was none.
func status(err error) int {
	var response *awshttp.ResponseError
	if errors.As(err, &response) && response.Response != nil && response.Response.Response != nil {
		return response.HTTPStatusCode()
	}
	return 0
}

// code returns the code of S3 that an error has, such as NoSuchKey; a HEAD has none.
func code(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

// explain returns err with what it means for a caller.
func (b *bucket) explain(err error) error {
	if err == nil {
		return nil
	}
	switch {
	case code(err) == "NoSuchBucket":
		return fmt.Errorf("there is no bucket %q: %w", b.name, err)
	case status(err) == http.StatusNotFound:
		return fs.ErrNotExist
	case status(err) == http.StatusForbidden:
		return fmt.Errorf("bucket %q: access denied; the credentials need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject: %w", b.name, err)
	}
	return fmt.Errorf("bucket %q: %w", b.name, err)
}

// get returns at most limit bytes of the value at a key from offset on, and its ETag.
func (b *bucket) get(ctx context.Context, key string, offset, limit int64) ([]byte, string, error) {
	in := &sdk.GetObjectInput{Bucket: &b.name, Key: b.key(key), Range: aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+limit-1))}
	for attempt := 1; ; attempt++ {
		data, etag, err := b.getOnce(ctx, in, limit)
		// A response that breaks off is not repeated by the client of the SDK.
		if err == nil || status(err) != 0 || ctx.Err() != nil || attempt == attempts || errors.Is(err, storage.ErrDamaged) {
			return data, etag, b.explain(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return nil, "", err
		}
	}
}

func (b *bucket) getOnce(ctx context.Context, in *sdk.GetObjectInput, limit int64) ([]byte, string, error) {
	out, err := b.client.GetObject(ctx, in)
	if err != nil {
		return nil, "", err
	}
	defer out.Body.Close()
	size := limit
	if n := aws.ToInt64(out.ContentLength); n >= 0 && n < limit {
		size = n
	}
	data := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := io.Copy(data, io.LimitReader(out.Body, limit+1)); err != nil {
		return nil, "", err
	}
	if int64(data.Len()) > limit {
		return nil, "", fmt.Errorf("more than the %d bytes that were asked for: %w", limit, storage.ErrDamaged)
	}
	return data.Bytes(), aws.ToString(out.ETag), nil
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

// head returns the ETag of a key, or fs.ErrNotExist.
func (b *bucket) head(ctx context.Context, key string) (string, error) {
	out, err := b.client.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &b.name, Key: b.key(key)})
	if err != nil {
		return "", b.explain(err)
	}
	return aws.ToString(out.ETag), nil
}

// condition is when a put may change a key.
type condition struct {
	absent bool   // only if the key has no value
	etag   string // only if its value has this ETag; "" for any
	after  string // the ID of the record with that ETag
}

// put sets a key, whose value begins with a record with this ID. The error is errTaken if the
// condition does not hold. After another error the value may have been set, or may still be set.
func (b *bucket) put(ctx context.Context, key, id string, value []byte, c condition) error {
	in := &sdk.PutObjectInput{Bucket: &b.name, Key: b.key(key), ContentLength: aws.Int64(int64(len(value))),
		ServerSideEncryption: b.encryption, SSEKMSKeyId: b.kmsKey}
	if c.absent {
		in.IfNoneMatch = aws.String("*")
	}
	if c.etag != "" {
		in.IfMatch = &c.etag
	}
	unknown := false // whether an attempt was done
	for attempt := 1; ; attempt++ {
		in.Body = bytes.NewReader(value)
		_, err := b.client.PutObject(ctx, in, once)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case failed(err, c) && !unknown:
			return errTaken
		case status(err) == http.StatusConflict: // another put was under way, and this one was not done
		case refused(err):
			return b.explain(err)
		default: // perhaps it was done, and the answer got lost: only what the key has now tells
			unknown = true
			if done, err := b.outcome(ctx, key, id, c); done || err != nil {
				return err
			}
		}
		if attempt == attempts {
			return b.explain(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// once makes the client of the SDK send a request once: after a retry, it could not be told whether the
// first attempt was done.
func once(o *sdk.Options) { o.RetryMaxAttempts = 1 }

// outcome finds out whether a put with this ID and condition was done. The error is errTaken if it was
// not and cannot be done any more; with neither, it can be tried again.
func (b *bucket) outcome(ctx context.Context, key, id string, c condition) (done bool, err error) {
	now, _, etag, err := b.record(ctx, key, firstRead)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.etag == "":
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, errors.New("whether a state was changed is not known, because it was deleted")
	case err != nil:
		return false, err
	case now.from(id):
		return true, nil
	case !c.absent && (c.etag == "" || c.etag == etag):
		return false, nil
	case c.absent && len(now.Past) < maxPast || c.etag != "" && now.from(c.after):
		return false, errTaken // its record would be between the one that it was to replace and this one
	}
	return false, errors.New("whether a state was changed is not known, because it was changed too often since")
}

// failed reports whether the condition of a put did not hold. A missing key is a 404 for If-Match.
func failed(err error, c condition) bool {
	return status(err) == http.StatusPreconditionFailed || c.etag != "" && status(err) == http.StatusNotFound && code(err) != "NoSuchBucket"
}

// refused reports whether the store did not even try to do a request, so that nothing has changed.
func refused(err error) bool {
	switch s := status(err); s {
	case http.StatusNotFound:
		return code(err) == "NoSuchBucket"
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusPreconditionFailed, http.StatusTooManyRequests:
		return false
	default:
		return s >= 400 && s < 500 || s == http.StatusNotImplemented
	}
}

// record returns the record at a key, what of its content follows in the first limit bytes, and its
// ETag.
func (b *bucket) record(ctx context.Context, key string, limit int64) (record, []byte, string, error) {
	data, etag, err := b.get(ctx, key, 0, limit)
	if err != nil {
		return record{}, nil, etag, err
	}
	r, content, err := decode(key, data)
	if errors.Is(err, errCut) && int64(len(data)) == limit && limit < maxHeader {
		return b.record(ctx, key, maxHeader)
	}
	return r, content, etag, err
}

// delete removes a key, if its value has this ETag; with "" whatever it has. The error is errTaken if
// it has another one, and fs.ErrNotExist if the key is known to be absent.
func (b *bucket) delete(ctx context.Context, key, etag string) error {
	in := &sdk.DeleteObjectInput{Bucket: &b.name, Key: b.key(key)}
	if etag != "" {
		in.IfMatch = &etag
	}
	_, err := b.client.DeleteObject(ctx, in)
	if status(err) == http.StatusPreconditionFailed {
		return errTaken
	}
	return b.explain(err)
}

// keys yields the keys that begin with prefix, in the order of their bytes.
func (b *bucket) keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		in := &sdk.ListObjectsV2Input{Bucket: &b.name, Prefix: b.key(prefix), EncodingType: types.EncodingTypeUrl}
		for {
			out, err := b.client.ListObjectsV2(ctx, in)
			if err != nil {
				yield("", b.explain(err))
				return
			}
			for _, o := range out.Contents {
				key, err := listed(out.EncodingType, aws.ToString(o.Key))
				if err == nil && !strings.HasPrefix(key, b.prefix+prefix) {
					err = fmt.Errorf("a list of the keys that begin with %.200q has %.200q", b.prefix+prefix, key)
				}
				if err != nil {
					yield("", fmt.Errorf("bucket %q: %w", b.name, err))
					return
				}
				if !yield(key[len(b.prefix):], nil) {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			if aws.ToString(out.NextContinuationToken) == "" {
				yield("", fmt.Errorf("bucket %q: a list says that there is more, but not where", b.name))
				return
			}
			in.ContinuationToken = out.NextContinuationToken
		}
	}
}

// listed returns a key of a list. Keys are encoded there because XML has no control characters.
func listed(encoding types.EncodingType, key string) (string, error) {
	if encoding != types.EncodingTypeUrl {
		return key, nil
	}
	return url.QueryUnescape(key)
}
