package pinlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
)

// replica is a log in a bucket, as one of several processes sees it. Its entries are a copy of what was
// read from the bucket, which ends with the process. Only the holder of the queue uses it.
type replica struct {
	*book
	bucket   bucketDir
	outposts *outposts
	alarm    *alarm
	announce func()

	tip       tip
	looked    time.Time // at the end
	began     time.Time // of batch 0, as its writer says
	own       own
	following *signedHead // the newest head that a batch has: shown if this replica signs nothing
}

// recent is how long an append believes what was seen by the one before it. Each append looks at the end, too.
const recent = 10 * time.Millisecond

// own is the batch that this replica tries to create.
type own struct {
	number int64
	hash   [sha256.Size]byte
	won    bool // it was read back
}

func (r *replica) writable() bool { return r.key.signer != nil }

func (r *replica) close() error { return r.entries.close() }

// append implements ledger. What is pinned counts when its batch is created: the bucket decides which
// replica's batch has the next number. The batch is signed into a head only after it was read back.
func (r *replica) append(ctx context.Context, pins []*pin) error {
	overtaken := false
	if time.Since(r.looked) > recent {
		var err error
		if overtaken, err = r.catchUp(ctx); err != nil {
			return err
		}
	}
	for {
		next := r.tip.next
		err := r.publish(ctx)
		if err == nil {
			err = r.refusals.reason()
		}
		overtaken = overtaken || r.tip.next != next
		switch {
		case err != nil || len(pins) == 0:
			return err
		case overtaken:
			return errOvertaken
		}
		n := fitting(pins)
		won, err := r.write(ctx, pins[:n])
		if err != nil {
			return err
		}
		if won {
			pins = pins[n:]
		}
		overtaken = !won || r.tip.next != r.own.number+1
	}
}

// fitting returns how many of pins fit into one batch, at least one.
func fitting(pins []*pin) int {
	size := 0
	for i, p := range pins {
		if size += frameHeader + len(p.entry.encode()); size > batchRoom && i > 0 {
			return i
		}
	}
	return len(pins)
}

// write creates the next batch with the entries of pins, and reads it back. It reports whether this batch,
// and no other one, has the next number. Everything before it is published.
func (r *replica) write(ctx context.Context, pins []*pin) (won bool, err error) {
	entries := make([]Entry, len(pins))
	for i, p := range pins {
		entries[i] = p.entry
	}
	b, err := nextBatch(r.tip, r.entries.tree(), r.view.Load().head, entries)
	if err != nil {
		return false, err
	}
	return r.writeBatch(ctx, b)
}

// writeBatch is write for a batch that is made already.
func (r *replica) writeBatch(ctx context.Context, b batch) (won bool, err error) {
	object, err := b.encode(r.key)
	if err != nil {
		return false, err
	}
	r.own = own{number: b.number, hash: sha256.Sum256(object)}
	created := r.bucket.create(ctx, b.number, object)
	// Whatever came of it, the bucket tells which replica has written.
	if err := r.readNext(ctx); err != nil {
		return false, errors.Join(err, created)
	}
	switch has := r.tip.next > b.number; {
	case has && !r.own.won && created == nil:
		return false, r.refuse(frozen("the log %s signs nothing new: the bucket has acknowledged batch %d, and has another one in its place; "+
			"keep the log in a store that honours conditions", r.key.name(), b.number))
	case !has && created == nil:
		return false, fmt.Errorf("the bucket has acknowledged batch %d of the log %s, and does not have it", b.number, r.key.name())
	case !has:
		return false, created // it may appear later: then the next attempt loses against it
	}
	if r.own.won {
		r.announce()
	}
	return r.own.won, nil
}

// look implements ledger.
func (r *replica) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.alarm.post(ctx); err != nil {
		return err
	}
	if why := r.refusals.reason(); why != nil && !adoptable(why) {
		return nil // what the bucket has cannot be trusted
	}
	_, err := r.catchUp(ctx)
	if err == nil {
		err = r.publish(ctx)
	}
	if errors.Is(err, sumdb.ErrFrozen) {
		return nil // that is seen now
	}
	return err
}

// sight is what a replica sees of the bucket, and outside, at one moment.
type sight struct {
	tip, next []byte  // the batch where the log ended, and the one after it; nil: absent
	claims    []claim // of guards, and of evidence
}

// inspect looks at everything that may show that the log has grown, or that the bucket was set back.
func (r *replica) inspect(ctx context.Context) (s sight, err error) {
	var group sync.WaitGroup
	var errs [4]error
	var found []evidence
	if r.tip.next > 0 {
		group.Go(func() { s.tip, errs[0] = r.bucket.batch(ctx, r.tip.next-1) })
	}
	group.Go(func() { s.next, errs[1] = r.bucket.batch(ctx, r.tip.next) })
	group.Go(func() { found, _, errs[2] = r.alarm.posted.read(ctx) })
	group.Go(func() { s.claims, errs[3] = r.outposts.readShared(ctx) })
	group.Wait()
	for _, e := range found {
		s.claims = append(s.claims, claim{file: fmt.Sprintf("evidence in the bucket (%s)", e.why), tree: e.tree})
	}
	return s, errors.Join(errs[:]...)
}

// see is inspect, and makes the log refuse if the last batch that was read is not in the bucket any longer.
func (r *replica) see(ctx context.Context) (sight, error) {
	s, err := r.inspect(ctx)
	switch {
	case errors.Is(err, sumdb.ErrFrozen):
		return s, r.refuse(err)
	case err != nil:
		return s, err
	case r.tip.next == 0:
	case s.tip == nil:
		return s, r.contradicted(fmt.Errorf("%w: its batch %d is gone", errContradicts, r.tip.next-1))
	case sha256.Sum256(s.tip) != r.tip.hash:
		return s, r.contradicted(fmt.Errorf("%w: its batch %d is another one", errContradicts, r.tip.next-1))
	}
	r.looked = time.Now()
	return s, nil
}

// catchUp reads all batches that are not read yet, and reports whether there were any. The log refuses
// if the bucket does not have what was seen in it, or what was seen elsewhere: pending are claims that were
// found before, about more entries than were read.
func (r *replica) catchUp(ctx context.Context, pending ...claim) (read bool, err error) {
	looks := 0
	for {
		s, err := r.see(ctx)
		if err != nil {
			return read, err
		}
		if s.next != nil {
			looks++
			if err := r.readOn(ctx, s.next, looks > 3); err != nil {
				return read, err
			}
			read, pending = true, append(pending, s.claims...)
			continue
		}
		if larger, err := r.compare(pending); err != nil {
			return read, err
		} else if len(larger) > 0 {
			return read, r.contradicted(larger[0].against(r.entries.tree().size()), larger[0].tree)
		}
		if pending, err = r.compare(s.claims); err != nil || len(pending) == 0 {
			return read, err
		}
	}
}

// readNext looks once, and reads the next batch if there is one. It reads more only if something that was
// seen is about more.
func (r *replica) readNext(ctx context.Context) error {
	s, err := r.see(ctx)
	if err != nil {
		return err
	}
	if s.next != nil {
		if err := r.take([][]byte{s.next}); err != nil {
			return err
		}
	}
	if larger, err := r.compare(s.claims); err != nil || len(larger) == 0 {
		return err
	}
	_, err = r.catchUp(ctx)
	return err
}

// compare makes the log refuse if what was read contradicts a claim. It returns the claims about more
// entries.
func (r *replica) compare(claims []claim) (larger []claim, err error) {
	tree := r.entries.tree()
	for _, c := range claims {
		if c.tree.N > tree.size() {
			larger = append(larger, c)
		} else if !tree.contains(c.tree) {
			return nil, r.contradicted(c.against(tree.size()), c.tree)
		}
	}
	return larger, nil
}

// readOn takes next, and with far the batches after it, several at a time.
func (r *replica) readOn(ctx context.Context, next []byte, far bool) error {
	if err := r.take([][]byte{next}); err != nil || !far {
		return err
	}
	for ahead := 2; ; ahead = min(2*ahead, readsAtOnce) {
		found, err := r.bucket.batches(ctx, r.tip.next, ahead)
		if err == nil && len(found) > 0 {
			err = r.take(found)
		}
		if err != nil || len(found) < ahead {
			return err
		}
	}
}

// take makes batches the end of the log. Their entries are not shown yet. The log refuses if our key signed
// them, and they do not follow what was read before.
func (r *replica) take(objects [][]byte) error {
	var batches []sealed
	for i, object := range objects {
		one, err := splitBatches(object)
		if err == nil && len(one) != 1 {
			err = fmt.Errorf("%w: %d batches in one object", sumdb.ErrInvalid, len(one))
		}
		if err != nil {
			return r.unreadable(r.tip.next+int64(i), object, err)
		}
		batches = append(batches, one...)
	}
	if err := verifyAll(batches, r.key.verifier); err != nil {
		i := max(0, slices.IndexFunc(batches, func(b sealed) bool { return b.verify(r.key.verifier) != nil }))
		return r.unreadable(r.tip.next+int64(i), objects[i], err)
	}
	at, fresh, err := follow(r.tip, r.entries.index, batches)
	if err != nil {
		return r.contradicted(fmt.Errorf("%w: %w", errContradicts, err))
	}
	if err := r.entries.append(fresh); err != nil {
		return err
	}
	return r.move(at, batches)
}

// unreadable is the error for a batch that is none of this log, or none that this program knows. It does not advise to
// remove the batch, which may be right.
func (r *replica) unreadable(number int64, object []byte, err error) error {
	var remedy string
	switch name, known := signedBy(object, r.key.verifier); {
	case known:
		remedy = "the key of this log has signed it, so a newer version of Assay has written it: update this server, and do not remove the batch"
	case name != "":
		remedy = fmt.Sprintf("it names the key %s, and log-key of this server has %s: give this server the key file of the others; "+
			"if this server has the right one, put back what the bucket had at %s", name, r.key.public, r.bucket.batchKey(number))
	default:
		remedy = fmt.Sprintf("put back what the bucket had at %s; if this server is older than the others, update it first", r.bucket.batchKey(number))
	}
	return fmt.Errorf("batch %d of the log %s: %w; %s", number, r.key.name(), err, remedy)
}

// move makes at the tip, after batches.
func (r *replica) move(at tip, batches []sealed) error {
	for _, b := range batches {
		if b.number == 0 {
			r.began = b.time
		}
		r.own.won = r.own.won || b.number == r.own.number && b.hash == r.own.hash
	}
	r.tip = at
	head, err := batches[len(batches)-1].headBefore(r.key.verifier)
	if head != nil {
		r.following = head
	}
	return err
}

// errClosedBatch means that the last batch says that the log goes on elsewhere.
var errClosedBatch = errors.New("assay log move has brought it from the bucket to a directory")

// publish signs everything that was read, and makes it visible. Before, it is in all guards. If one has more,
// publish reads that first: nothing is signed that the bucket did not have when the guard was written. A log
// that refuses shows what others have signed.
func (r *replica) publish(ctx context.Context) error {
	for {
		if r.tip.closed && !errors.Is(r.refusals.reason(), errClosedBatch) {
			r.refuse(frozen("the log %s signs nothing new: %w; its batch %d is the last one", r.key.name(), errClosedBatch, r.tip.next-1))
		}
		if r.refusals.reason() != nil || !r.writable() {
			r.showAll(r.following)
			return nil
		}
		entries := r.entries.tree()
		tree, err := entries.at(entries.size())
		if err != nil {
			return err
		}
		if head := r.view.Load().head; head != nil && head.tree == tree {
			return nil
		}
		err = r.outposts.write(ctx, tree)
		var behind errBehind
		switch {
		case errors.As(err, &behind):
			if _, err := r.catchUp(ctx, behind.claim); err != nil {
				return err
			}
			continue
		case errors.Is(err, errContradicts):
			return r.contradicted(err)
		case err != nil:
			return err
		}
		head, err := signHead(tree, r.key.signer)
		if err != nil {
			return err
		}
		r.view.Store(&view{entries, tree.N, &head})
		r.consolidate(ctx)
		return nil
	}
}

// consolidate writes a segment with the last whole run, so that a new replica reads the log with few
// requests. Without it the batches are read one by one.
func (r *replica) consolidate(ctx context.Context) {
	if r.tip.whole == nil {
		return
	}
	first := r.tip.next - int64(len(r.tip.run)) - runLength
	if err := r.bucket.createSegment(ctx, first, slices.Concat(r.tip.whole...)); err != nil {
		r.log.Warn("a segment of the own log is not written; new replicas need more requests to read it", "database", r.key.name(), "batch", first, "err", err)
	}
	r.tip.whole = nil
}

// freeze implements ledger. Without the key this process can sign no evidence; the head is evidence for the others.
func (r *replica) freeze(seen signedHead, _ bool) error {
	why := fmt.Errorf("%w: a client has seen a signed head of %d entries that does not fit the %d entries here",
		errContradicts, seen.tree.N, r.entries.tree().size())
	r.log.Error("a client has seen a head that is not of this log", "database", r.key.name(), "head", string(seen.note))
	if r.writable() {
		return r.contradicted(why, seen.tree)
	}
	refusal := r.refuse(r.refusals.setBack(why, r.bucket.dir))
	if err := r.alarm.show(seen); err != nil {
		return fmt.Errorf("%w\nand the servers do not know it, because it cannot be written to the bucket: %w; stop them, or run this again with credentials that may write", refusal, err)
	}
	return refusal
}

// contradicted makes the log refuse, and keeps evidence for the other replicas, and for the next start:
// the trees that the bucket does not have, and what this replica has signed.
func (r *replica) contradicted(why error, trees ...tlog.Tree) error {
	refusal := r.refuse(r.refusals.setBack(why, r.bucket.dir))
	if !r.writable() {
		return refusal
	}
	if v := r.view.Load(); v != nil && v.head != nil {
		trees = append(trees, v.head.tree)
	}
	if err := r.alarm.raise(why, trees, r.key.signer); err != nil {
		r.log.Error("other replicas may not know that the log is frozen; the next look at the bucket tells them again", "database", r.key.name(), "err", err)
	}
	return refusal
}
