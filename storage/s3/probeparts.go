package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// minPart is the smallest size of a part that is not the last one.
const minPart = 5 << 20

// borderland is where the part of the value begins that is read: with the end of the first part.
const borderland = minPart - 1000

// stripes is a value of size bytes in which each piece of 8 bytes says where it is.
func stripes(size int) []byte {
	var b bytes.Buffer
	for at := 0; at < size; at += 8 {
		fmt.Fprintf(&b, "%8x", at)
	}
	return b.Bytes()[:size]
}

// errUnclear means that the answer to a conditional request got lost.
var errUnclear = errors.New("whether it was done is not known")

// unmet reports whether a status says that a condition does not hold, or that it is not known.
func unmet(status int) bool {
	return slices.Contains([]int{http.StatusConflict, http.StatusPreconditionFailed, http.StatusNotImplemented}, status)
}

// createInParts uploads a value in parts, or returns the status with which its condition was refused.
func (b *bucket) createInParts(ctx context.Context, key string, values ...[]byte) (refused int, err error) {
	full := b.key(key)
	var begun *sdk.CreateMultipartUploadOutput
	err = b.try(ctx, 0, func(ctx context.Context) (err error) {
		begun, err = b.client.CreateMultipartUpload(ctx, &sdk.CreateMultipartUploadInput{Bucket: &b.name, Key: full,
			ServerSideEncryption: b.encryption, SSEKMSKeyId: b.kmsKey})
		return err
	})
	if err != nil {
		return 0, b.explain(err)
	}
	sent := make([]types.CompletedPart, len(values))
	for i, value := range values {
		part := io.NewSectionReader(bytes.NewReader(value), 0, int64(len(value)))
		if sent[i], err = b.uploadPart(ctx, key, begun.UploadId, int32(i+1), part); err != nil {
			break
		}
	}
	if err == nil {
		_, err = b.client.CompleteMultipartUpload(ctx, &sdk.CompleteMultipartUploadInput{Bucket: &b.name, Key: full, UploadId: begun.UploadId,
			IfNoneMatch: aws.String("*"), MultipartUpload: &types.CompletedMultipartUpload{Parts: sent}})
	}
	if err == nil {
		return 0, nil
	}
	b.cleanUp(ctx, func(ctx context.Context) error {
		_, err := b.client.AbortMultipartUpload(ctx, &sdk.AbortMultipartUploadInput{Bucket: &b.name, Key: full, UploadId: begun.UploadId})
		return err
	})
	switch s := status(err); {
	case unmet(s):
		return s, nil
	case retryable(err):
		return 0, errUnclear
	}
	return 0, b.explain(err)
}
