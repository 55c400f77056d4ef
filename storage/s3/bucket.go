package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/assay-proxy/assay/storage"
)

// errTaken means that the condition of a request does not hold: the key has another record.
var errTaken = errors.New("the key has another record")

// partSize is the size of the parts of an upload; a content of at most one part is sent at once.
const partSize = 16 << 20

// bucket sends the requests. Its keys are those below the prefix of the store.
type bucket struct {
	client *sdk.Client
	watch  *watch
	name   string
	prefix string // ends with a slash, unless it is empty

	encryption types.ServerSideEncryption
	kmsKey     *string // nil: none

	alone *alone // nil: the store checks conditions
	part  int64  // size of the parts of an upload: partSize, but in some tests
}

// records are what is done in a bucket with several requests.
type records struct{ *bucket }

func newBucket(ctx context.Context, o Options) (*bucket, error) {
	w := newWatch()
	client, err := newClient(ctx, o, w)
	if err != nil {
		return nil, err
	}
	b := &bucket{client: client, watch: w, name: o.Bucket, encryption: types.ServerSideEncryption(o.Encryption), part: partSize}
	if o.Prefix != "" {
		b.prefix = o.Prefix + "/"
	}
	if o.KMSKey != "" {
		b.kmsKey = &o.KMSKey
	}
	return b, nil
}

func (b *bucket) key(key string) *string { return aws.String(b.prefix + key) }

// explain returns err with what it means for a caller. No error of the SDK is in it: below one may be
// fs.ErrNotExist for a file of credentials, and some have texts of megabytes.
func (b *bucket) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, storage.ErrDamaged), errors.Is(err, errAnswer):
		return err
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, fs.ErrClosed): // a draft
		return fs.ErrClosed
	case absent(err):
		return fs.ErrNotExist
	}
	if text := unanswered(err); text != "" {
		return &awayError{fmt.Sprintf("bucket %q: %s", b.name, text)}
	}
	why := ""
	switch code(err) {
	case "NoSuchBucket":
		why = "there is no such bucket: "
	case "AccessDenied":
		why = "the credentials need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject: "
	case "RequestTimeTooSkewed":
		why = "the clock of this machine or of the store is wrong: "
	case "InvalidAccessKeyId", "SignatureDoesNotMatch":
		why = "the credentials are wrong: "
	}
	return &awayError{fmt.Sprintf("bucket %q: %s%.400v", b.name, why, err)}
}

// unanswered returns what an administrator does if a request got no answer, "" if it is not known. The text of the SDK
// says where in the SDK it failed.
func unanswered(err error) string {
	if status(err) != 0 {
		return ""
	}
	var network *net.OpError
	var timed net.Error
	switch {
	case strings.Contains(err.Error(), "get credentials"):
		return "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
	case errors.As(err, &network) && !network.Timeout():
		return fmt.Sprintf("no answer: %.200v; check the endpoint, the network, and that the object store runs", network)
	case errors.As(err, &timed) && timed.Timeout():
		return "no answer in time; check the endpoint, the network, and the object store"
	}
	return ""
}

// awayError is the error of a store that answers nothing, or refuses a request.
type awayError struct{ text string }

func (e *awayError) Error() string { return e.text }

// Is makes it storage.ErrAway.
func (e *awayError) Is(target error) bool { return target == storage.ErrAway }

// last reports whether a request is not sent again after an attempt: a store that is away has one.
func (b *bucket) last(attempt int) bool { return attempt == attempts || b.watch.away() }

// try sends a request that may be repeated, for a transfer of at most size bytes.
func (b *bucket) try(ctx context.Context, size int64, send func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		limited, cancel := context.WithTimeout(ctx, patience(size))
		err := send(limited)
		cancel()
		if ctx.Err() != nil && err != nil {
			return ctx.Err()
		}
		if err == nil || !retryable(err) || b.last(attempt) {
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// get returns at most limit bytes of the value at a key from offset on, and its ETag.
func (b *bucket) get(ctx context.Context, key string, offset, limit int64) (data []byte, etag string, err error) {
	in := &sdk.GetObjectInput{Bucket: &b.name, Key: b.key(key), Range: aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+limit-1))}
	err = b.try(ctx, limit, func(ctx context.Context) (err error) {
		data, etag, err = b.getOnce(ctx, in, offset, limit)
		return err
	})
	if status(err) == http.StatusRequestedRangeNotSatisfiable && code(err) == "InvalidRange" {
		return b.getNothing(ctx, key, offset)
	}
	return data, etag, b.explain(err)
}

// getNothing is get of a value that ends before offset.
func (b *bucket) getNothing(ctx context.Context, key string, offset int64) (data []byte, etag string, err error) {
	err = b.try(ctx, 0, func(ctx context.Context) error {
		out, err := b.client.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &b.name, Key: b.key(key)})
		if err == nil && (aws.ToInt64(out.ContentLength) > offset || aws.ToString(out.ETag) == "") {
			err = fmt.Errorf("bucket %q: %w: it has bytes, and it has none", b.name, errAnswer)
		}
		if err == nil {
			etag = *out.ETag
		}
		return err
	})
	return nil, etag, b.explain(err)
}

func (b *bucket) getOnce(ctx context.Context, in *sdk.GetObjectInput, offset, limit int64) ([]byte, string, error) {
	out, err := b.client.GetObject(ctx, in)
	if err != nil {
		return nil, "", err
	}
	defer out.Body.Close()
	part := aws.ToString(out.ContentRange)
	var first, last, total int64
	_, scanErr := fmt.Sscanf(part, "bytes %d-%d/%d", &first, &last, &total)
	other := scanErr != nil || first != offset || last != min(offset+limit, total)-1
	switch {
	case aws.ToString(out.ETag) == "":
		return nil, "", fmt.Errorf("bucket %q: %w: it has no ETag", b.name, errAnswer)
	case other && (offset > 0 || part != ""):
		return nil, "", fmt.Errorf("bucket %q: %w: it has the bytes %.40q, not those from %d on", b.name, errAnswer, part, offset)
	case aws.ToString(out.ContentEncoding) != "" && *out.ContentEncoding != "identity":
		return nil, "", fmt.Errorf("bucket %q: %w: it is compressed", b.name, errAnswer)
	}
	size := limit
	if n := aws.ToInt64(out.ContentLength); n >= 0 && n < limit {
		size = n
	}
	data := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := io.Copy(data, io.LimitReader(out.Body, limit+1)); err != nil {
		return nil, "", err
	}
	if int64(data.Len()) > limit {
		return nil, "", fmt.Errorf("bucket %q: %w: it has more than the %d bytes that were asked for", b.name, errAnswer, limit)
	}
	return data.Bytes(), *out.ETag, nil
}

// exists reports whether a key has a value.
func (b *bucket) exists(ctx context.Context, key string) (bool, error) {
	_, _, err := b.get(ctx, key, 0, 1)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// condition is when a put may change a key: one of absent and etag is set.
type condition struct {
	absent bool   // if the key has no value
	etag   string // if its value has this ETag
	after  string // the ID of the record with that ETag; empty if it is damaged
}

// holds returns errTaken if c does not hold for key now.
func (b *bucket) holds(ctx context.Context, key string, c condition) error {
	_, etag, err := b.get(ctx, key, 0, 1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if c.etag != "" {
			return errTaken
		}
		return nil
	case err != nil:
		return err
	case c.absent || c.etag != "" && c.etag != etag:
		return errTaken
	}
	return nil
}

// ifAbsent returns If-None-Match for a key that nothing else uses.
func (b *bucket) ifAbsent() *string {
	if b.alone != nil {
		return nil
	}
	return aws.String("*")
}

// put sets a key, whose value begins with a record with this ID. The error is errTaken if the
// condition does not hold. After another error the value may have been set, or may still be set.
func (b *bucket) put(ctx context.Context, key, id string, value []byte, c condition) error {
	in := &sdk.PutObjectInput{Bucket: &b.name, Key: b.key(key), ContentLength: aws.Int64(int64(len(value))),
		ServerSideEncryption: b.encryption, SSEKMSKeyId: b.kmsKey}
	switch {
	case b.alone != nil:
		defer b.alone.lock(key)()
		if err := b.holds(ctx, key, c); err != nil {
			return err
		}
	case c.absent:
		in.IfNoneMatch = aws.String("*")
	case c.etag != "":
		in.IfMatch = &c.etag
	}
	lost := false // the answer to an attempt
	for attempt := 1; ; attempt++ {
		in.Body = bytes.NewReader(value)
		limited, cancel := context.WithTimeout(ctx, patience(int64(len(value))))
		_, err := b.client.PutObject(limited, in)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case status(err) == http.StatusConflict: // another put was under way, and this one was not done
		case refused(err):
			return b.explain(err)
		default: // its answer got lost, or a server between us has repeated it: only what the key has now tells
			lost = lost || status(err) != http.StatusPreconditionFailed && !absent(err)
			if done, err := b.outcome(ctx, key, id, c, lost); done || err != nil {
				return err
			}
		}
		if b.last(attempt) {
			return b.explain(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// refused reports whether the store did not even try to do a request, so that nothing has changed.
func refused(err error) bool {
	if errors.Is(err, errNotSent) {
		return true
	}
	switch s := status(err); s {
	case http.StatusNotFound:
		return code(err) == "NoSuchBucket"
	case http.StatusConflict, http.StatusPreconditionFailed:
		return false
	default:
		return s >= 300 && !retryable(err)
	}
}

// errUnknown means that it cannot be known whether a put was done.
var errUnknown = errors.New("whether a value was written is not known, because it was deleted or changed too often since")

// outcome finds out whether a put with this ID and condition was done. The error is errTaken if it was
// not and cannot be done any more, and errUnknown if an answer got lost and the key does not tell; with
// neither, the put can be tried again.
func (b *bucket) outcome(ctx context.Context, key, id string, c condition, lost bool) (done bool, err error) {
	now, _, etag, err := b.record(ctx, key, firstRead, false)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.etag == "":
		return false, nil
	case errors.Is(err, storage.ErrDamaged) && c.etag != "" && c.etag == etag:
		return false, nil
	case err == nil && now.from(id):
		return true, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrDamaged):
		return false, err
	case c.etag != "" && c.etag == etag:
		return false, nil
	case !lost, err == nil && c.absent && len(now.Past) < maxPast, err == nil && c.etag != "" && now.from(c.after):
		return false, errTaken // its record would be between the one that it was to replace and this one
	}
	return false, errUnknown
}

// record returns the record at a key, what of its content follows in the first limit bytes, and its
// ETag. With whole, a content that is in the record is checked. What is damaged is read twice: perhaps it
// was on the way.
func (b *bucket) record(ctx context.Context, key string, limit int64, whole bool) (r record, content []byte, etag string, err error) {
	for attempt := 1; ; attempt++ {
		var data []byte
		if data, etag, err = b.get(ctx, key, 0, limit); err != nil {
			return record{}, nil, etag, err
		}
		r, content, err = decode(key, data)
		if errors.Is(err, errCut) && int64(len(data)) == limit && limit < maxHeader {
			limit = maxHeader
			continue
		}
		if err == nil && whole && r.Content == "" {
			content, err = r.open(content)
		}
		if !errors.Is(err, storage.ErrDamaged) || attempt > 1 {
			return r, content, etag, err
		}
	}
}

// delete removes a key, if its value has this ETag; with "" whatever it has. The error is errTaken if
// it has another one, and fs.ErrNotExist if the key is known to be absent: if unknown is true, perhaps
// because of this call.
func (b *bucket) delete(ctx context.Context, key, etag string) (unknown bool, err error) {
	in := &sdk.DeleteObjectInput{Bucket: &b.name, Key: b.key(key)}
	switch {
	case etag == "":
	case b.alone != nil:
		defer b.alone.lock(key)()
		if err := b.holds(ctx, key, condition{etag: etag}); err != nil {
			return false, err
		}
	default:
		in.IfMatch = &etag
	}
	for attempt := 1; ; attempt++ {
		limited, cancel := context.WithTimeout(ctx, patience(0))
		_, err := b.client.DeleteObject(limited, in)
		cancel()
		switch {
		case err == nil:
			return unknown, nil
		case ctx.Err() != nil:
			return unknown, ctx.Err()
		case status(err) == http.StatusPreconditionFailed:
			return unknown, errTaken
		case status(err) == http.StatusNotImplemented && in.IfMatch != nil: // the probe has said so
			in.IfMatch = nil
		case status(err) == http.StatusConflict:
		case !retryable(err):
			return unknown, b.explain(err)
		default:
			unknown = true
		}
		if b.last(attempt) {
			return unknown, b.explain(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return unknown, err
		}
	}
}
