package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// parallelParts is how many parts are sent at a time.
const parallelParts = 3

// upload sets a key that nothing else uses to a content.
func (b *bucket) upload(ctx context.Context, key string, content io.ReaderAt, size int64) error {
	send := b.uploadWhole
	if size > b.part {
		send = b.uploadParts
	}
	for attempt := 1; ; attempt++ {
		err := send(ctx, key, content, size)
		switch {
		case err == nil && size > b.part:
			return b.whole(ctx, key, size)
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errParts), refused(err):
			return b.explain(err)
		}
		// The answer got lost, perhaps, or a server between us has repeated the request. The key becomes
		// visible with all of its bytes or not at all.
		if b.complete(ctx, key, size) {
			return nil
		}
		if b.last(attempt) {
			return b.explain(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// errParts means that an upload in parts did not come to its end, after the attempts that each of its
// requests has.
var errParts = errors.New("upload in parts")

// whole checks that a content is there from its first byte to its last, after an upload in parts that was
// acknowledged: a store that has lost a part is found out before a record names what it has. That its bytes are right,
// those who read them see.
func (b *bucket) whole(ctx context.Context, key string, size int64) error {
	end, _, err := b.get(ctx, key, size-1, 2)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(end) != 1 {
		return &awayError{fmt.Sprintf("bucket %q: the object store acknowledged an upload in parts, and does not have its %d bytes; "+
			"look for damage with assay verify, and use another object store", b.name, size)}
	}
	return err
}

// complete reports whether a content is there.
func (b *bucket) complete(ctx context.Context, key string, size int64) bool {
	out, err := b.client.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &b.name, Key: b.key(key)})
	return err == nil && aws.ToInt64(out.ContentLength) == size
}

func (b *bucket) uploadWhole(ctx context.Context, key string, content io.ReaderAt, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, patience(size))
	defer cancel()
	_, err := b.client.PutObject(ctx, &sdk.PutObjectInput{Bucket: &b.name, Key: b.key(key), IfNoneMatch: b.ifAbsent(),
		Body: io.NewSectionReader(content, 0, size), ContentLength: &size, ServerSideEncryption: b.encryption, SSEKMSKeyId: b.kmsKey})
	return err
}

func (b *bucket) uploadParts(ctx context.Context, key string, content io.ReaderAt, size int64) error {
	var begun *sdk.CreateMultipartUploadOutput
	err := b.try(ctx, 0, func(ctx context.Context) (err error) {
		begun, err = b.client.CreateMultipartUpload(ctx, &sdk.CreateMultipartUploadInput{Bucket: &b.name, Key: b.key(key),
			ServerSideEncryption: b.encryption, SSEKMSKeyId: b.kmsKey})
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errParts, err)
	}
	parts := make([]types.CompletedPart, (size+b.part-1)/b.part)
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(parallelParts)
	for i := range parts {
		group.Go(func() (err error) {
			offset := int64(i) * b.part
			part := io.NewSectionReader(content, offset, min(size-offset, b.part))
			parts[i], err = b.uploadPart(sending, key, begun.UploadId, int32(i+1), part)
			return err
		})
	}
	if err = group.Wait(); err != nil {
		err = fmt.Errorf("%w: %w", errParts, err)
	} else {
		complete, cancel := context.WithTimeout(ctx, patience(size))
		defer cancel()
		_, err = b.client.CompleteMultipartUpload(complete, &sdk.CompleteMultipartUploadInput{Bucket: &b.name, Key: b.key(key), UploadId: begun.UploadId,
			IfNoneMatch: b.ifAbsent(), MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}})
	}
	if err != nil && !b.complete(ctx, key, size) {
		// No other process knows of the upload, so what of it stays costs money for nothing.
		b.cleanUp(ctx, func(ctx context.Context) error {
			_, err := b.client.AbortMultipartUpload(ctx, &sdk.AbortMultipartUploadInput{Bucket: &b.name, Key: b.key(key), UploadId: begun.UploadId})
			return err
		})
	}
	return err
}

func (b *bucket) uploadPart(ctx context.Context, key string, id *string, number int32, part *io.SectionReader) (types.CompletedPart, error) {
	done := types.CompletedPart{PartNumber: &number}
	err := b.try(ctx, part.Size(), func(ctx context.Context) error {
		if _, err := part.Seek(0, io.SeekStart); err != nil {
			return err
		}
		sent, err := b.client.UploadPart(ctx, &sdk.UploadPartInput{Bucket: &b.name, Key: b.key(key), UploadId: id,
			PartNumber: &number, Body: part, ContentLength: aws.Int64(part.Size())})
		if err == nil {
			done.ETag = sent.ETag
		}
		return err
	})
	return done, err
}

// cleanUp removes what a failed operation left, also after ctx has ended. If that fails, too, Collect
// does it later.
func (b *bucket) cleanUp(ctx context.Context, remove func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), idleTimeout)
	defer cancel()
	_ = remove(ctx)
}
