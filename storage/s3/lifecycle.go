package s3

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Expirations returns a text for each lifecycle rule of the bucket that deletes keys of the store, or moves them to
// where they cannot be read at once. A store must not have any: an object, a state or a content that a rule deletes is
// lost. Rules that end unfinished uploads are welcome, and so are those about versions that were replaced or deleted, of
// which a store reads none. An object store that has no rules has none that deletes.
func (db *DB) Expirations(ctx context.Context) (rules []string, err error) {
	b := db.records.bucket
	var out *sdk.GetBucketLifecycleConfigurationOutput
	err = b.try(ctx, maxAnswer, func(ctx context.Context) (err error) {
		out, err = b.client.GetBucketLifecycleConfiguration(ctx, &sdk.GetBucketLifecycleConfigurationInput{Bucket: &b.name})
		return err
	})
	switch s := status(err); {
	case code(err) == "NoSuchLifecycleConfiguration", s == http.StatusNotImplemented, s == http.StatusNotFound && code(err) != "NoSuchBucket":
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("lifecycle rules: %w", b.explain(err))
	}
	for _, r := range out.Rules {
		if what := deletes(r); what != "" && b.touches(rulePrefix(r)) && r.Status == types.ExpirationStatusEnabled {
			rules = append(rules, fmt.Sprintf("%.200q, for keys that begin with %.200q: %s", aws.ToString(r.ID), rulePrefix(r), what))
		}
	}
	return rules, nil
}

// touches reports whether keys that begin with prefix may be those of the store.
func (b *bucket) touches(prefix string) bool {
	return strings.HasPrefix(b.prefix, prefix) || strings.HasPrefix(prefix, b.prefix)
}

func rulePrefix(r types.LifecycleRule) string {
	switch f := r.Filter; {
	case f == nil:
		//lint:ignore SA1019 rules of an earlier form have it
		return aws.ToString(r.Prefix)
	case f.And != nil:
		return aws.ToString(f.And.Prefix)
	default:
		return aws.ToString(f.Prefix)
	}
}

// deletes says what a rule does to current objects, "" if nothing. The other storage classes can be read at once.
func deletes(r types.LifecycleRule) string {
	if e := r.Expiration; e != nil && (e.Days != nil || e.Date != nil) {
		return "it deletes them"
	}
	for _, t := range r.Transitions {
		if t.StorageClass == types.TransitionStorageClassGlacier || t.StorageClass == types.TransitionStorageClassDeepArchive {
			return "it moves them to an archive"
		}
	}
	return ""
}
