package s3

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

const (
	// partSize is the size of the parts of an upload; a content of at most one part is sent at once.
	partSize = 16 << 20

	// parallelParts is how many parts are sent at a time.
	parallelParts = 3
)

// upload sets a key that nobody else uses to a content.
func (b *bucket) upload(ctx context.Context, key string, content io.ReaderAt, size int64) error {
	send := b.uploadWhole
	if size > partSize {
		send = b.uploadParts
	}
	err := send(ctx, key, content, size)
	for attempt := 1; status(err) == http.StatusConflict && attempt < attempts; attempt++ {
		if err := pause(ctx, attempt); err != nil {
			return err
		}
		err = send(ctx, key, content, size)
	}
	if err == nil || ctx.Err() != nil || refused(err) {
		return b.explain(err)
	}
	// The answer got lost, perhaps, or the client of the SDK repeated the request and met its own
	// first attempt. The key becomes visible with all parts or not at all.
	out, headErr := b.client.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &b.name, Key: b.key(key)})
	if headErr == nil && aws.ToInt64(out.ContentLength) == size {
		return nil
	}
	return b.explain(err)
}

func (b *bucket) uploadWhole(ctx context.Context, key string, content io.ReaderAt, size int64) error {
	_, err := b.client.PutObject(ctx, &sdk.PutObjectInput{Bucket: &b.name, Key: b.key(key), IfNoneMatch: aws.String("*"),
		Body: io.NewSectionReader(content, 0, size), ContentLength: &size, ServerSideEncryption: b.encryption, SSEKMSKeyId: b.kmsKey})
	return err
}

func (b *bucket) uploadParts(ctx context.Context, key string, content io.ReaderAt, size int64) error {
	begun, err := b.client.CreateMultipartUpload(ctx, &sdk.CreateMultipartUploadInput{Bucket: &b.name, Key: b.key(key),
		ServerSideEncryption: b.encryption, SSEKMSKeyId: b.kmsKey})
	if err != nil {
		return err
	}
	parts := make([]types.CompletedPart, (size+partSize-1)/partSize)
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(parallelParts)
	for i := range parts {
		group.Go(func() error {
			offset := int64(i) * partSize
			length := min(size-offset, partSize)
			number := aws.Int32(int32(i + 1))
			sent, err := b.client.UploadPart(sending, &sdk.UploadPartInput{Bucket: &b.name, Key: b.key(key), UploadId: begun.UploadId,
				PartNumber: number, Body: io.NewSectionReader(content, offset, length), ContentLength: &length})
			if err != nil {
				return fmt.Errorf("part %d of %d: %w", i+1, len(parts), err)
			}
			parts[i] = types.CompletedPart{PartNumber: number, ETag: sent.ETag}
			return nil
		})
	}
	if err = group.Wait(); err == nil {
		_, err = b.client.CompleteMultipartUpload(ctx, &sdk.CompleteMultipartUploadInput{Bucket: &b.name, Key: b.key(key), UploadId: begun.UploadId,
			IfNoneMatch: aws.String("*"), MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}})
	}
	if err != nil {
		// Nobody else knows of the upload, so what of it stays costs money for nothing.
		b.cleanUp(ctx, func(ctx context.Context) error {
			_, err := b.client.AbortMultipartUpload(ctx, &sdk.AbortMultipartUploadInput{Bucket: &b.name, Key: b.key(key), UploadId: begun.UploadId})
			return err
		})
	}
	return err
}

// cleanUp removes what a failed operation left, also after ctx has ended. If that fails, too, gc does
// it later.
func (b *bucket) cleanUp(ctx context.Context, remove func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), idleTimeout)
	defer cancel()
	_ = remove(ctx)
}
