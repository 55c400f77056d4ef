package pinlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// audit reads every object of a log in a bucket, and checks what a replica believes: each signature, and not
// only those that cover others, and each segment.
type audit struct {
	key      keyPair
	bucket   bucketDir
	posted   evidenceState
	kept     evidenceFile
	outposts *outposts

	segments []int64 // those that are not compared yet
	tip      tip
	index    entryIndex
	damage   []error
}

func newAudit(c Config, key keyPair) *audit {
	dir := ""
	if c.Dir != "" {
		dir = replicaDir(c.Dir, key.name())
	}
	return &audit{
		key: key, bucket: newBucketDir(c.Bucket.Store, key.name()), outposts: newOutposts(c, dir, key),
		posted: newEvidenceState(c.Bucket.Store, key.verifier), kept: evidenceFile{dir, key.verifier}, index: newEntryIndex(),
	}
}

// run reads everything. The error is one of reading; what is wrong is in damage.
func (a *audit) run(ctx context.Context) error {
	claims, err := a.claims(ctx)
	if err != nil {
		return err
	}
	if a.segments, err = a.bucket.segments(ctx); err != nil {
		return err
	}
	for more := true; more; {
		if more, err = a.readSome(ctx); err != nil {
			return err
		}
	}
	for _, first := range a.segments {
		a.wrong("there is a segment of the batches from %d on, and not all of them", first)
	}
	after, err := a.bucket.beyond(ctx, a.tip.next)
	if err == nil && after > 0 {
		a.wrong("there is a batch %d, and no batch %d", after, a.tip.next)
	}
	for _, c := range claims {
		if !a.index.tree.contains(c.tree) {
			a.wrong("%s has a tree of %d entries that is not of the %d entries here", c.file, c.tree.N, a.index.tree.size())
		}
	}
	return err
}

func (a *audit) wrong(format string, args ...any) {
	a.damage = append(a.damage, fmt.Errorf(format, args...))
}

// claims returns what guards and evidence say.
func (a *audit) claims(ctx context.Context) ([]claim, error) {
	found, err := a.outposts.readAll(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := a.kept.read()
	if err != nil {
		return nil, err
	}
	posted, _, err := a.posted.read(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range slices.Concat(kept, posted) {
		found.claims = append(found.claims, claim{file: fmt.Sprintf("evidence (%s)", e.why), tree: e.tree})
	}
	return found.claims, nil
}

// readSome reads the next batches, and reports whether there may be more.
func (a *audit) readSome(ctx context.Context) (more bool, err error) {
	objects, err := a.bucket.batches(ctx, a.tip.next, readsAtOnce)
	if errors.Is(err, sumdb.ErrInvalid) || errors.Is(err, storage.ErrDamaged) {
		a.wrong("after batch %d: %w", a.tip.next-1, err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, object := range objects {
		if err := a.addBatch(object); err != nil {
			a.wrong("batch %d: %w", a.tip.next, err)
			return false, nil
		}
		if err := a.compareSegment(ctx); err != nil {
			return false, err
		}
	}
	return len(objects) == readsAtOnce, ctx.Err()
}

// addBatch checks the next batch, and adds its entries.
func (a *audit) addBatch(object []byte) error {
	batches, err := splitBatches(object)
	if err == nil && len(batches) != 1 {
		err = fmt.Errorf("%w: %d batches in one object", sumdb.ErrInvalid, len(batches))
	}
	if err != nil {
		return err
	}
	if err := batches[0].verify(a.key.verifier); err != nil {
		return err
	}
	if head, err := batches[0].headBefore(a.key.verifier); err != nil || (head == nil) != (a.tip.next == 0) {
		return errors.Join(err, fmt.Errorf("%w: the head of the tree before it is wrong", sumdb.ErrInvalid))
	}
	end, entries, err := follow(a.tip, a.index, batches)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := a.index.add(e, 0); err != nil {
			return err
		}
	}
	a.tip = end
	return nil
}

// compareSegment compares the run that is whole, if one is, with its segment.
func (a *audit) compareSegment(ctx context.Context) error {
	run, first := a.tip.whole, a.tip.next-runLength
	a.tip.whole = nil
	if run == nil || len(a.segments) == 0 || a.segments[0] != first {
		return nil
	}
	a.segments = a.segments[1:]
	object, err := a.bucket.read(ctx, a.bucket.segmentKey(first), maxSegment)
	if err != nil && !errors.Is(err, sumdb.ErrInvalid) && !errors.Is(err, storage.ErrDamaged) {
		return err
	}
	if !bytes.Equal(object, slices.Concat(run...)) {
		a.wrong("the segment of the batches from %d on is not what they are; remove %s: it is written again", first, a.bucket.segmentKey(first))
	}
	return nil
}
