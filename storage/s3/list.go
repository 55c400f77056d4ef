package s3

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// maxEmptyPages is how many parts of a list in a row may have no key.
const maxEmptyPages = 1000

// keys yields the keys that begin with prefix, in the order of their bytes.
func (b *bucket) keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		in := &sdk.ListObjectsV2Input{Bucket: &b.name, Prefix: b.key(prefix), EncodingType: types.EncodingTypeUrl}
		last, empty := "", 0
		for {
			out, err := b.page(ctx, in)
			if err != nil {
				yield("", err)
				return
			}
			if empty++; len(out.Contents) > 0 {
				empty = 0
			}
			for _, o := range out.Contents {
				key, err := listed(out.EncodingType, aws.ToString(o.Key))
				if err != nil || !strings.HasPrefix(key, b.prefix+prefix) || last != "" && key <= last {
					yield("", fmt.Errorf("bucket %q: %w: a list of the keys that begin with %.200q has %.200q after %.200q", b.name, errAnswer, b.prefix+prefix, key, last))
					return
				}
				last = key
				if !yield(key[len(b.prefix):], nil) {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			if aws.ToString(out.NextContinuationToken) == "" || empty > maxEmptyPages {
				yield("", fmt.Errorf("bucket %q: %w: a list says that there is more, but not where", b.name, errAnswer))
				return
			}
			in.ContinuationToken = out.NextContinuationToken
		}
	}
}

// page returns a part of a list. Its body must be a list: an empty one is not the same as something
// else.
func (b *bucket) page(ctx context.Context, in *sdk.ListObjectsV2Input) (out *sdk.ListObjectsV2Output, err error) {
	err = b.try(ctx, maxList, func(ctx context.Context) (err error) {
		out, err = b.client.ListObjectsV2(ctx, in)
		return err
	})
	switch {
	case absent(err):
		return nil, fmt.Errorf("bucket %q: %w: a list is absent", b.name, errAnswer)
	case err != nil:
		return nil, b.explain(err)
	case aws.ToString(out.Name) != b.name || out.IsTruncated == nil:
		return nil, fmt.Errorf("bucket %q: %w: it is no list of this bucket", b.name, errAnswer)
	}
	return out, nil
}

// listed returns a key of a list. Keys are encoded there because XML has no control characters.
func listed(encoding types.EncodingType, key string) (string, error) {
	if encoding != types.EncodingTypeUrl {
		return key, nil
	}
	return url.QueryUnescape(key)
}
