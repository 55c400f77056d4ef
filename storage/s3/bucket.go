package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/assay-proxy/assay/storage"
)

// errTaken means that the condition of a request does not hold: the key has another record.
var errTaken = errors.New("the key has another record")

// bucket sends the requests. Its keys are those below the prefix of the store.
type bucket struct {
	client *sdk.Client
	name   string
	prefix string // ends with a slash, unless it is empty

	encryption types.ServerSideEncryption
	kmsKey     *string // nil: none
}

// records are what is done in a bucket with several requests.
type records struct{ *bucket }

func newBucket(ctx context.Context, o Options) (*bucket, error) {
	client, err := newClient(ctx, o)
	if err != nil {
		return nil, err
	}
	b := &bucket{client: client, name: o.Bucket, encryption: types.ServerSideEncryption(o.Encryption)}
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
	return fmt.Errorf("bucket %q: %s%.400v", b.name, why, err)
}

// try sends a request that may be repeated, for a transfer of at most size bytes.
func (b *bucket) try(ctx context.Context, size int64, send func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		limited, cancel := context.WithTimeout(ctx, patience(size))
		err := send(limited)
		cancel()
		if ctx.Err() != nil && err != nil {
			return ctx.Err()
		}
		if err == nil || !retryable(err) || attempt == attempts {
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
		if attempt == attempts {
			return b.explain(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// refused reports whether the store did not even try to do a request, so that nothing has changed.
func refused(err error) bool {
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
	if etag != "" {
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
		if attempt == attempts {
			return unknown, b.explain(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return unknown, err
		}
	}
}
