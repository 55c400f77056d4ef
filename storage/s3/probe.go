package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

const (
	// racers is how many requests of the probe compete for one key, rounds how often.
	racers = 16
	rounds = 3

	// probeKeys is how many keys the probe writes to read and to list them.
	probeKeys = 8

	probes = "probe/" // where the keys of probes are, below the prefix of the store
)

// Report is what a probe found out about an object store.
type Report struct {
	Server string // what it calls itself in the header Server, if it does

	// Broken are the promises that it breaks, one sentence each. With none, several replicas may share
	// the store; otherwise objects could be replaced, and states lost.
	Broken []string

	// Left is how many keys the probe could not delete.
	Left int
}

// Err returns an error that says what is broken, nil if nothing is.
func (r Report) Err() error {
	if len(r.Broken) == 0 {
		return nil
	}
	server := "the object store"
	if r.Server != "" {
		server += fmt.Sprintf(" (%.80q)", r.Server)
	}
	return fmt.Errorf("%s cannot be shared by several replicas: %s", server, strings.Join(r.Broken, "; "))
}

// Probe finds out whether the object store keeps the promises on which several replicas rely: that of
// racing conditional writes exactly one wins, and that a write is seen by the reads and lists after it.
// It sends some 150 small requests to keys of its own, and deletes those if it may. An error means
// that the bucket cannot be used at all.
func (db *DB) Probe(ctx context.Context) (Report, error) {
	if err := db.check(ctx); err != nil {
		return Report{}, fmt.Errorf("probe: %w", err)
	}
	p := &probe{bucket: db.bucket, dir: probes + newID() + "/", tried: map[string]bool{}}
	err := p.run(ctx)
	p.cleanUp(ctx)
	if err != nil {
		return p.report, fmt.Errorf("probe: %w", err)
	}
	return p.report, nil
}

type probe struct {
	*bucket
	dir    string
	report Report

	mu    sync.Mutex
	tried map[string]bool
}

func (p *probe) broken(format string, arguments ...any) {
	p.report.Broken = append(p.report.Broken, fmt.Sprintf(format, arguments...))
}

func (p *probe) run(ctx context.Context) error {
	for _, check := range []func(context.Context) error{p.access, p.races, p.swaps, p.reads, p.lists, p.parts} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// send writes a key, and returns its ETag, or the status with which a condition was refused. All other
// errors end the probe.
func (p *probe) send(ctx context.Context, name, value string, c condition) (etag string, refused int, err error) {
	in := &sdk.PutObjectInput{Bucket: &p.name, Key: p.key(p.dir + name), Body: strings.NewReader(value),
		ServerSideEncryption: p.encryption, SSEKMSKeyId: p.kmsKey}
	if c.absent {
		in.IfNoneMatch = aws.String("*")
	}
	if c.etag != "" {
		in.IfMatch = &c.etag
	}
	p.mu.Lock()
	p.tried[p.dir+name] = true
	p.mu.Unlock()
	out, err := p.client.PutObject(ctx, in)
	if s := status(err); (c.absent || c.etag != "") && (unmet(s) || c.etag != "" && s == http.StatusNotFound) {
		return "", s, nil
	}
	if err != nil {
		return "", 0, p.explain(err)
	}
	return aws.ToString(out.ETag), 0, nil
}

// unmet reports whether a status says that a condition does not hold, or that it is not known.
func unmet(status int) bool {
	return slices.Contains([]int{http.StatusConflict, http.StatusPreconditionFailed, http.StatusBadRequest, http.StatusNotImplemented}, status)
}

// retried is send, again as long as the status is 409: another request is under way.
func (p *probe) retried(ctx context.Context, name, value string, c condition) (refused int, err error) {
	for attempt := 1; ; attempt++ {
		_, refused, err = p.send(ctx, name, value, c)
		if refused != http.StatusConflict || err != nil || attempt == attempts {
			return refused, err
		}
		if err := pause(ctx, attempt); err != nil {
			return 0, err
		}
	}
}

func (p *probe) read(ctx context.Context, name string) (string, error) {
	value, _, err := p.get(ctx, p.dir+name, 0, maxHeader)
	return string(value), err
}

// access writes and reads one key, so that what is wrong with the settings is said first.
func (p *probe) access(ctx context.Context) error {
	if _, _, err := p.send(ctx, "access", "value", condition{}); err != nil {
		return err
	}
	out, err := p.client.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &p.name, Key: p.key(p.dir + "access")})
	if err != nil {
		return p.explain(err)
	}
	if response, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response); ok {
		p.report.Server = response.Header.Get("Server")
	}
	_, err = p.head(ctx, p.dir+"absent")
	if err == nil {
		p.broken("a key that was never written is there")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// race sends one request from each of several goroutines at once, and returns which of them succeeded.
func (p *probe) race(ctx context.Context, name string, c condition) (winners []int, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range racers {
		wg.Go(func() {
			refused, sendErr := p.retried(ctx, name, racer(i), c)
			mu.Lock()
			defer mu.Unlock()
			if sendErr == nil && refused == 0 {
				winners = append(winners, i)
			}
			err = errors.Join(err, sendErr)
		})
	}
	wg.Wait()
	return winners, err
}

func racer(i int) string { return fmt.Sprintf("racer %d", i) }

// races lets several requests create the same key.
func (p *probe) races(ctx context.Context) error {
	for round := range rounds {
		name := fmt.Sprintf("race-%d", round)
		winners, err := p.race(ctx, name, condition{absent: true})
		if err != nil {
			return err
		}
		if len(winners) != 1 {
			p.broken("%d of %d PUTs of one key with If-None-Match: * succeeded, not 1", len(winners), racers)
			return nil
		}
		if value, err := p.read(ctx, name); err != nil {
			return err
		} else if value != racer(winners[0]) {
			p.broken("a PUT with If-None-Match: * was refused and done all the same")
			return nil
		}
		if refused, err := p.retried(ctx, name, "late", condition{absent: true}); err != nil {
			return err
		} else if refused != http.StatusPreconditionFailed {
			p.broken("a PUT with If-None-Match: * of a key that is there has the status %d, not 412", max(refused, http.StatusOK))
			return nil
		}
	}
	return nil
}

// swaps changes a key with If-Match.
func (p *probe) swaps(ctx context.Context) error {
	first, _, err := p.send(ctx, "swap", "first", condition{})
	if err != nil {
		return err
	}
	if first == "" {
		p.broken("a PUT has no ETag")
		return nil
	}
	if _, refused, err := p.send(ctx, "swap-absent", "value", condition{etag: first}); err != nil {
		return err
	} else if refused == 0 {
		p.broken("If-Match is ignored: it created a key")
		return nil
	}
	winners, err := p.race(ctx, "swap", condition{etag: first})
	if err != nil {
		return err
	}
	if len(winners) != 1 {
		p.broken("%d of %d PUTs of one key with the same If-Match succeeded, not 1", len(winners), racers)
		return nil
	}
	if value, err := p.read(ctx, "swap"); err != nil {
		return err
	} else if value != racer(winners[0]) {
		p.broken("a PUT with If-Match was refused and done all the same")
	}
	return nil
}

// reads writes keys twice and reads them at once.
func (p *probe) reads(ctx context.Context) error {
	for i := range probeKeys {
		for _, value := range []string{"first", "second"} {
			name := fmt.Sprintf("read-%d", i)
			if _, _, err := p.send(ctx, name, value, condition{}); err != nil {
				return err
			}
			got, err := p.read(ctx, name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if got != value {
				p.broken("a GET right after a PUT does not have its value")
				return nil
			}
		}
	}
	return nil
}

// lists lists the keys of reads, and again after the deletion of one of them.
func (p *probe) lists(ctx context.Context) error {
	listed := func() (names []string, err error) {
		for key, err := range p.keys(ctx, p.dir+"read-") {
			if err != nil {
				return nil, err
			}
			names = append(names, key)
		}
		return names, nil
	}
	names, err := listed()
	if err != nil {
		return err
	}
	if len(names) != probeKeys {
		p.broken("a list right after %d PUTs has %d of the keys", probeKeys, len(names))
		return nil
	}
	if !slices.IsSorted(names) {
		p.broken("a list is not in the order of the keys")
	}
	if p.delete(ctx, names[0], "") != nil {
		return nil // the bucket may deny it; Left says so
	}
	after, err := listed()
	if err != nil {
		return err
	}
	if len(after) != probeKeys-1 {
		p.broken("a list right after a DELETE has %d keys, not %d", len(after), probeKeys-1)
	}
	return nil
}

// parts completes uploads of a key that is there and of one that is not.
func (p *probe) parts(ctx context.Context) error {
	complete := func(name string) (refused int, err error) {
		key := p.key(p.dir + name)
		p.tried[p.dir+name] = true
		begun, err := p.client.CreateMultipartUpload(ctx, &sdk.CreateMultipartUploadInput{Bucket: &p.name, Key: key,
			ServerSideEncryption: p.encryption, SSEKMSKeyId: p.kmsKey})
		if err != nil {
			return 0, p.explain(err)
		}
		part, err := p.client.UploadPart(ctx, &sdk.UploadPartInput{Bucket: &p.name, Key: key, UploadId: begun.UploadId, PartNumber: aws.Int32(1),
			Body: bytes.NewReader([]byte("part"))})
		if err == nil {
			_, err = p.client.CompleteMultipartUpload(ctx, &sdk.CompleteMultipartUploadInput{Bucket: &p.name, Key: key, UploadId: begun.UploadId,
				IfNoneMatch:     aws.String("*"),
				MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: part.ETag, PartNumber: aws.Int32(1)}}}})
		}
		if err == nil {
			return 0, nil
		}
		p.bucket.cleanUp(ctx, func(ctx context.Context) error {
			_, err := p.client.AbortMultipartUpload(ctx, &sdk.AbortMultipartUploadInput{Bucket: &p.name, Key: key, UploadId: begun.UploadId})
			return err
		})
		if s := status(err); unmet(s) {
			return s, nil
		}
		return 0, p.explain(err)
	}
	if refused, err := complete("parts"); err != nil {
		return err
	} else if refused != 0 {
		p.broken("an upload in parts with If-None-Match: * of a key that is absent has the status %d", refused)
		return nil
	}
	if refused, err := complete("parts"); err != nil {
		return err
	} else if refused == 0 {
		p.broken("an upload in parts with If-None-Match: * replaced a key")
	}
	return nil
}

// cleanUp deletes the keys that the probe has tried to write, also those of a store that does what it
// refuses.
func (p *probe) cleanUp(ctx context.Context) {
	p.bucket.cleanUp(ctx, func(ctx context.Context) error {
		for key := range p.tried {
			_ = p.delete(ctx, key, "") // what is left is counted
		}
		for _, err := range p.keys(ctx, p.dir) {
			if err != nil {
				return err
			}
			p.report.Left++
		}
		return nil
	})
}
