package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// makeBucket makes a bucket, with the credentials of the environment.
func makeBucket(ctx context.Context, name string, endpoints []string) error {
	settings, err := config.LoadDefaultConfig(ctx, config.WithRegion("us-east-1"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		for _, endpoint := range endpoints {
			client := s3.NewFromConfig(settings, func(o *s3.Options) {
				o.BaseEndpoint, o.UsePathStyle, o.RetryMaxAttempts = aws.String(endpoint), true, 1
			})
			attempt, done := context.WithTimeout(ctx, 5*time.Second)
			_, err = client.CreateBucket(attempt, &s3.CreateBucketInput{Bucket: &name})
			done()
			var stated smithy.APIError
			if err == nil || errors.As(err, &stated) && stated.ErrorCode() == "BucketAlreadyOwnedByYou" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no bucket within two minutes: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
