package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

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

	probes = "probe/" // where the keys of probes are, below the prefix of the store
)

// Probe finds out whether the object store keeps the promises on which several replicas rely: that of
// racing conditional writes exactly one wins, and that a write is seen by the reads and lists after it.
// It sends some 150 small requests and one of 5 MiB to keys of its own, and deletes those if it may. An
// error means that the bucket cannot be used at all.
func (db *DB) Probe(ctx context.Context) (Report, error) {
	if err := db.check(ctx); err != nil {
		return Report{}, fmt.Errorf("probe: %w", err)
	}
	p := &probe{bucket: db.records.bucket, dir: probes + newID() + "/", tried: map[string]bool{}}
	err := p.access(ctx)
	if err == nil {
		err = p.run(ctx)
		p.cleanUp(ctx)
	}
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

// unconditional notes a broken promise about conditional requests.
func (p *probe) unconditional(format string, arguments ...any) {
	p.report.Unconditional = append(p.report.Unconditional, fmt.Sprintf(format, arguments...))
}

func (p *probe) run(ctx context.Context) error {
	for _, check := range []func(context.Context) error{p.races, p.swaps, p.deletions, p.reads, p.ranges, p.lists, p.parts} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// send writes a key, or returns the status with which a condition was refused. It repeats a request
// whose answer gets lost, which is for conditions that cannot hold, or for none.
func (p *probe) send(ctx context.Context, name, value string, c condition) (refused int, err error) {
	for attempt := 1; ; attempt++ {
		refused, err := p.sendOnce(ctx, name, value, c)
		if !errors.Is(err, errUnclear) && (refused != http.StatusConflict) || attempt == attempts {
			return refused, err
		}
		if err := pause(ctx, attempt); err != nil {
			return 0, err
		}
	}
}

func (p *probe) sendOnce(ctx context.Context, name, value string, c condition) (refused int, err error) {
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
	_, err = p.client.PutObject(ctx, in)
	conditional := c.absent || c.etag != ""
	switch s := status(err); {
	case err == nil:
		return 0, nil
	case conditional && (unmet(s) || c.etag != "" && s == http.StatusNotFound):
		return s, nil
	case retryable(err):
		return 0, fmt.Errorf("%w (%w)", p.explain(err), errUnclear)
	}
	return 0, p.explain(err)
}

// etag returns the ETag of a key.
func (p *probe) etag(ctx context.Context, name string) (string, error) {
	_, etag, err := p.get(ctx, p.dir+name, 0, maxHeader)
	return etag, err
}

func (p *probe) read(ctx context.Context, name string) (string, error) {
	value, _, err := p.get(ctx, p.dir+name, 0, maxHeader)
	return string(value), err
}

// access writes and reads one key, so that what is wrong with the settings is said first.
func (p *probe) access(ctx context.Context) error {
	if _, err := p.send(ctx, "access", "value", condition{}); err != nil {
		return err
	}
	var out *sdk.HeadObjectOutput
	err := p.try(ctx, 0, func(ctx context.Context) (err error) {
		out, err = p.client.HeadObject(ctx, &sdk.HeadObjectInput{Bucket: &p.name, Key: p.key(p.dir + "access")})
		return err
	})
	if err != nil {
		return p.explain(err)
	}
	if response, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response); ok {
		p.report.Server = response.Header.Get("Server")
	}
	switch _, err := p.read(ctx, "absent"); {
	case err == nil:
		p.broken("a key that was never written is there")
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("a key that is absent: %w", err)
	}
	return nil
}

// race sends one request from each of several goroutines at once. It returns a word about how many
// succeeded if that was not one, or if the key does not have the value of that one. A request whose answer
// got lost may have been the one.
func (p *probe) race(ctx context.Context, name string, c condition) (wrong string, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var winners, unclear []string
	for i := range racers {
		wg.Go(func() {
			refused, sendErr := http.StatusConflict, error(nil) // another request was under way: again
			for attempt := 0; refused == http.StatusConflict && sendErr == nil && attempt < attempts; attempt++ {
				refused, sendErr = p.sendOnce(ctx, name, racer(i), c)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(sendErr, errUnclear):
				unclear = append(unclear, racer(i))
			case sendErr != nil:
				err = sendErr
			case refused == 0:
				winners = append(winners, racer(i))
			}
		})
	}
	wg.Wait()
	if err != nil {
		return "", err
	}
	value, err := p.read(ctx, name)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	case len(unclear) == racers && err != nil:
		return "", errUnclear
	case len(winners) > 1 || len(winners) == 0 && !slices.Contains(unclear, value):
		return fmt.Sprintf("%d of %d succeeded, not 1", len(winners), racers), nil
	case len(winners) == 1 && value != winners[0]:
		return "one succeeded, and the key has the value of another", nil
	}
	return "", nil
}

func racer(i int) string { return fmt.Sprintf("racer %d", i) }

// races lets several requests create the same key.
func (p *probe) races(ctx context.Context) error {
	for i := range rounds {
		name := fmt.Sprintf("race-%d", i)
		wrong, err := p.race(ctx, name, condition{absent: true})
		for attempt := 1; errors.Is(err, errUnclear) && attempt < attempts; attempt++ {
			wrong, err = p.race(ctx, name, condition{absent: true})
		}
		if err != nil {
			return err
		}
		if wrong != "" {
			p.unconditional("of PUTs of one key with If-None-Match: * at the same time, %s", wrong)
			return nil
		}
		value, err := p.read(ctx, name)
		if err != nil {
			return err
		}
		refused, err := p.send(ctx, name, "late", condition{absent: true})
		if err != nil {
			return err
		}
		if refused != http.StatusPreconditionFailed {
			p.unconditional("a PUT with If-None-Match: * of a key that is there has the status %d, not 412", max(refused, http.StatusOK))
			return nil
		}
		if err := p.expect(ctx, name, value, func() { p.unconditional("a PUT with If-None-Match: * was refused and done all the same") }); err != nil {
			return err
		}
	}
	return nil
}

// expect reads a key, and calls otherwise if it has another value.
func (p *probe) expect(ctx context.Context, name, want string, otherwise func()) error {
	value, err := p.read(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if value != want {
		otherwise()
	}
	return nil
}

// swaps changes a key with If-Match.
func (p *probe) swaps(ctx context.Context) error {
	const name = "swap"
	if _, err := p.send(ctx, name, "first", condition{}); err != nil {
		return err
	}
	first, err := p.etag(ctx, name)
	if err != nil {
		return err
	}
	if refused, err := p.send(ctx, name+"-absent", "value", condition{etag: first}); err != nil {
		return err
	} else if refused == 0 {
		p.unconditional("If-Match is ignored: it created a key")
		return nil
	}
	wrong, err := p.race(ctx, name, condition{etag: first})
	if wrong != "" {
		p.unconditional("of PUTs of one key with the same If-Match at the same time, %s", wrong)
	}
	return err
}

// deletions deletes a key with the ETag of a value that it no longer has.
func (p *probe) deletions(ctx context.Context) error {
	const name = "deletion"
	if _, err := p.send(ctx, name, "first", condition{}); err != nil {
		return err
	}
	old, err := p.etag(ctx, name)
	if err != nil {
		return err
	}
	if _, err := p.send(ctx, name, "second", condition{}); err != nil {
		return err
	}
	_, deleteErr := p.delete(ctx, p.dir+name, old)
	if deleteErr != nil && !errors.Is(deleteErr, errTaken) {
		return nil // the bucket may deny it; Left says so
	}
	switch _, err := p.read(ctx, name); {
	case err == nil && deleteErr == nil:
		p.unconditional("a DELETE with If-Match and a wrong ETag is acknowledged and not done")
		return nil
	case errors.Is(err, fs.ErrNotExist):
		p.report.Weak = append(p.report.Weak, "DELETE ignores If-Match: a deletion can remove an object that replaces another at that moment")
		return nil
	case err != nil:
		return err
	}
	now, err := p.etag(ctx, name)
	if err != nil {
		return err
	}
	if unknown, err := p.delete(ctx, p.dir+name, now); err != nil && !unknown {
		p.unconditional("a DELETE with If-Match and the right ETag is refused")
		return nil
	}
	if _, err := p.read(ctx, name); err == nil {
		p.broken("a GET right after a DELETE has the value")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// awkward are parts of keys that a server may write in another way.
var awkward = []string{"v1.0.0+incompatible.zip", "!a!b", "a b", "a%2Fb", "\u00e9", "e\u0301", "~", "a&b=c", "A"}

// reads reads keys that are absent, writes them twice, and reads them at once.
func (p *probe) reads(ctx context.Context) error {
	for _, name := range awkward {
		name = "read/" + name
		if _, err := p.read(ctx, name); err == nil {
			p.broken("a key that was never written is there")
			return nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, value := range []string{"first", "second"} {
			if _, err := p.send(ctx, name, value, condition{}); err != nil {
				return err
			}
			before := len(p.report.Broken)
			if err := p.expect(ctx, name, value, func() { p.broken("a GET right after a PUT does not have its value") }); err != nil || len(p.report.Broken) > before {
				return err
			}
		}
	}
	return nil
}

// ranges reads the end of a value.
func (p *probe) ranges(ctx context.Context) error {
	if _, err := p.send(ctx, "range", "0123456789", condition{}); err != nil {
		return err
	}
	part, _, err := p.get(ctx, p.dir+"range", 6, 100)
	if errors.Is(err, errAnswer) || err == nil && string(part) != "6789" {
		p.broken("a GET with a Range does not have that part")
		return nil
	}
	return err
}

// lists lists the keys of reads, and again after the deletion of one of them.
func (p *probe) lists(ctx context.Context) error {
	names, err := p.listed(ctx)
	if err != nil || len(p.report.Broken) > 0 {
		return err
	}
	want := slices.Sorted(slices.Values(awkward))
	if !slices.Equal(names, want) {
		p.broken("a list right after PUTs of %q has %.200q", want, names)
		return nil
	}
	if _, err := p.delete(ctx, p.dir+"read/"+names[0], ""); err != nil {
		return nil // the bucket may deny it; Left says so
	}
	if names, err = p.listed(ctx); err == nil && !slices.Equal(names, want[1:]) {
		p.broken("a list right after a DELETE has %.200q", names)
	}
	return err
}

func (p *probe) listed(ctx context.Context) (names []string, err error) {
	for key, err := range p.keys(ctx, p.dir+"read/") {
		if errors.Is(err, errAnswer) {
			p.broken("%v", err)
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		names = append(names, strings.TrimPrefix(key, p.dir+"read/"))
	}
	return names, nil
}

// parts completes uploads of a key that is not there, in two parts, and of one that is, in one.
func (p *probe) parts(ctx context.Context) error {
	value := stripes(minPart + 1000)
	for attempt := 1; ; attempt++ {
		name := fmt.Sprintf("parts-%d", attempt)
		first, err := p.upload(ctx, name, value[:minPart], value[minPart:])
		second := 0
		if err == nil && first == 0 {
			var end []byte
			if end, err = p.end(ctx, name); err != nil {
				return err
			}
			if !bytes.Equal(end, value[borderland:]) {
				p.broken("an upload in parts is acknowledged, and the key does not have all of it")
				return nil
			}
			second, err = p.upload(ctx, name, []byte("second"))
		}
		switch {
		case errors.Is(err, errUnclear) && attempt < attempts:
			continue
		case err != nil:
			return err
		case first != 0:
			p.unconditional("an upload in parts with If-None-Match: * of a key that is absent has the status %d", first)
			return nil
		case second == 0:
			p.unconditional("an upload in parts with If-None-Match: * replaced a key")
			return nil
		}
		end, err := p.end(ctx, name)
		if err == nil && !bytes.Equal(end, value[borderland:]) {
			p.unconditional("an upload in parts with If-None-Match: * was refused and done all the same")
		}
		return err
	}
}

// end returns the value of a key from there on; nothing if it has none.
func (p *probe) end(ctx context.Context, name string) ([]byte, error) {
	end, _, err := p.get(ctx, p.dir+name, borderland, maxHeader)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return end, err
}

// upload uploads a value in parts, or returns the status with which its condition was refused.
func (p *probe) upload(ctx context.Context, name string, values ...[]byte) (refused int, err error) {
	p.tried[p.dir+name] = true
	return p.createInParts(ctx, p.dir+name, values...)
}

// cleanUp deletes the keys that the probe has tried to write, also those of a store that does what it
// refuses.
func (p *probe) cleanUp(ctx context.Context) {
	p.bucket.cleanUp(ctx, func(ctx context.Context) error {
		p.sweep(ctx)
		for key := range p.tried {
			_, _ = p.delete(ctx, key, "") // what is left is counted
		}
		for _, err := range p.keys(ctx, p.dir) {
			if err != nil {
				p.report.Left = len(p.tried) // at most
				return err
			}
			p.report.Left++
		}
		return nil
	})
}

// leftAge is how old the keys of another probe are before they count as left by one that was killed.
const leftAge = 24 * time.Hour

// sweep deletes what probes have left that were killed, of one page of a list. How old a key is, the clock of the
// store says.
func (p *probe) sweep(ctx context.Context) {
	list := func(dir string) []types.Object {
		out, err := p.page(ctx, &sdk.ListObjectsV2Input{Bucket: &p.name, Prefix: p.key(dir), EncodingType: types.EncodingTypeUrl})
		if err != nil {
			return nil // the next probe may succeed
		}
		return out.Contents
	}
	var now time.Time
	for _, o := range list(p.dir) {
		if at := aws.ToTime(o.LastModified); at.After(now) {
			now = at
		}
	}
	if now.IsZero() {
		return
	}
	for _, o := range list(probes) {
		key, err := url.QueryUnescape(aws.ToString(o.Key))
		key, ours := strings.CutPrefix(key, p.prefix)
		if err != nil || !ours || o.LastModified == nil || now.Sub(*o.LastModified) < leftAge {
			continue
		}
		_, _ = p.delete(ctx, key, "")
	}
}
