package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// bucketOpener opens a log in a bucket.
type bucketOpener struct{ *Log }

// open implements Open, but leaves files open if it fails.
func (o bucketOpener) open(ctx context.Context) error { return o.openFor(ctx, toUse) }

// purpose is what a log in a bucket is opened for.
type purpose int

const (
	toUse   purpose = iota
	toBegin         // create a log of which nothing shows that it was there before
	toEnd           // another log may sign in the bucket already
)

// openFor is open for a purpose. It reads what is outside of the bucket first: what other replicas write meanwhile is
// in the bucket before it is in a guard.
func (o bucketOpener) openFor(ctx context.Context, purpose purpose) error {
	if err := o.openKey(ctx); err != nil {
		return err
	}
	r, err := o.newReplica()
	if err != nil {
		return err
	}
	found, err := r.outposts.readAll(ctx)
	if err != nil {
		return err
	}
	kept, err := r.alarm.kept.read()
	if err != nil {
		return err
	}
	if err := r.load(ctx); err != nil {
		return err
	}
	if err := r.confront(found, kept); err != nil {
		return err
	}
	switch {
	case !r.writable() || r.refusals.reason() != nil:
	case r.tip.next > 0:
		o.vouch(r, found.vouch || o.config.Bucket.Trust)
	default:
		if err := o.begin(ctx, r, purpose == toBegin); err != nil {
			return err
		}
	}
	if r.writable() && r.refusals.reason() == nil && purpose != toEnd {
		why, err := o.claim(ctx, purpose == toBegin && o.config.Bucket.OthersEnded, false)
		if err != nil {
			return err
		}
		if why != nil {
			r.refuse(why)
		}
	}
	return r.open(ctx)
}

// claim makes the log the one that signs in its bucket. It returns why it may not be: another log is. With replace,
// that one has ended by the word of the administrator. A log that was moved here may come after one whose versions are
// still in the store.
func (o bucketOpener) claim(ctx context.Context, replace, moved bool) (why, err error) {
	for {
		named, why, err := o.alone(ctx, replace, moved)
		if err != nil || why != nil || string(named) == o.key.public {
			return why, err
		}
		err = o.config.Bucket.Store.SwapState(ctx, currentLog, named, []byte(o.key.public))
		if !errors.Is(err, storage.ErrConflict) {
			return nil, err
		}
	}
}

// alone returns the verifier key of the log that signs in the bucket, nil if none is recorded, and why the log may not
// take its place.
func (o bucketOpener) alone(ctx context.Context, replace, moved bool) (named []byte, why, err error) {
	named, other, err := otherLog(ctx, o.config.Bucket.Store, o.Name(), moved)
	switch {
	case err != nil || replace || string(named) == o.key.public:
		return named, nil, err
	case other != "":
		return named, otherSigns(o.Name(), other), nil
	case named != nil:
		return named, frozen("the bucket has a log %s with another key: name the file with that key as log-key", o.Name()), nil
	}
	return nil, nil, nil
}

// openKey reads the key. Without a secret key, the log is the one with the configured name, or the only one
// in the bucket.
func (o bucketOpener) openKey(ctx context.Context) (err error) {
	c := o.config
	if c.Bucket.Key == "" && !c.ReadOnly {
		return errors.New("a log in a bucket needs the file with its secret key, the same for all replicas: set log-key")
	}
	if c.Bucket.Key == "" {
		o.key, err = keyInBucket(ctx, c.Bucket.Store, c.Name)
	} else {
		o.key, err = readKey(c.Bucket.Key)
	}
	if moved := movedKeyOf(c.Bucket.Key); errors.Is(err, fs.ErrNotExist) && exists(moved) {
		return fmt.Errorf("key of the log: %w; assay log move has renamed it to %s: name the copy that was given to it as log-key", err, moved)
	}
	if errors.Is(err, fs.ErrNotExist) && !c.ReadOnly {
		return fmt.Errorf("key of the log: %w; assay log create makes it with a new log", err)
	}
	if err != nil {
		return fmt.Errorf("key of the log: %w", err)
	}
	if c.ReadOnly {
		o.key.signer = nil
	}
	o.refusals = &refusals{name: o.key.name(), adopt: c.Adopt}
	if c.Name != "" && c.Name != o.key.name() {
		return fmt.Errorf("the key of the log, log-key, is that of the log %s, and log-name is %s: a log keeps its name; "+
			"remove log-name, or name the file with the key of %s", o.key.name(), c.Name, c.Name)
	}
	return nil
}

// keyInBucket returns the key in the first batch of the log called name, or of the only log. The error is
// fs.ErrNotExist if there is none.
func keyInBucket(ctx context.Context, store storage.Store, name string) (key keyPair, err error) {
	dirs := []string{storage.LogDir(name)}
	if name == "" {
		if dirs, err = bucketLogs(ctx, store); err != nil {
			return key, err
		}
	}
	if len(dirs) > 1 {
		return key, fmt.Errorf("the bucket has %d logs: name one of them with log-name, or its key with log-key", len(dirs))
	}
	var object []byte
	if len(dirs) == 1 {
		if object, err = (bucketDir{store, dirs[0]}).batch(ctx, 0); err != nil {
			return key, err
		}
	}
	if object == nil {
		return key, fmt.Errorf("the bucket has no such log: %w", fs.ErrNotExist)
	}
	b, _, err := decodeBatch(object)
	if err != nil {
		return key, err
	}
	key.public = b.key
	if key.verifier, err = sumdb.NewVerifier(b.key); err != nil {
		return key, err
	}
	return key, b.verify(key.verifier)
}

// newReplica makes the parts of the log, with no entries.
func (o bucketOpener) newReplica() (*replica, error) {
	c, scratch, dir := o.config, "", ""
	if c.Dir != "" {
		dir = replicaDir(c.Dir, o.Name())
	}
	if !c.ReadOnly {
		if err := durable.MakeDir(dir, 0o700); err != nil {
			return nil, err
		}
		scratch = dir
		var err error
		if o.lock, err = takeLock(filepath.Join(dir, "lock")); err != nil {
			return nil, err
		}
	}
	entries, err := newScratch(o.Name(), scratch, c.Memory)
	if err != nil {
		return nil, err
	}
	book := &book{key: o.key, entries: entries, refusals: o.refusals, log: o.log}
	r := &replica{
		book: book, bucket: newBucketDir(c.Bucket.Store, o.Name()), outposts: newOutposts(c, dir, o.key), announce: func() {},
		alarm: &alarm{posted: newEvidenceState(c.Bucket.Store, o.key.verifier), kept: evidenceFile{dir, o.key.verifier}},
	}
	if c.Bucket.Announce != nil {
		r.announce = c.Bucket.Announce
	}
	r.alarm.announce = r.announce
	book.showSigned(nil)
	o.use(book, r)
	o.lookout = newLookout(o.Refresh)
	return r, nil
}

// load reads the whole log. What it finds wrong makes the log refuse.
func (r *replica) load(ctx context.Context) error {
	firsts, err := r.bucket.segments(ctx)
	if err == nil {
		err = r.loadSegments(ctx, firsts)
	}
	if errors.Is(err, sumdb.ErrInvalid) || errors.Is(err, storage.ErrDamaged) {
		r.log.Warn("a segment of the own log is damaged; its batches are read one by one", "database", r.key.name(), "err", err)
		err = nil
	}
	if err == nil {
		_, err = r.catchUp(ctx)
	}
	if err == nil {
		err = r.checkEnd(ctx, firsts)
	}
	switch {
	case r.refusals.reason() != nil:
		return nil
	case errors.Is(err, sumdb.ErrInvalid), errors.Is(err, storage.ErrDamaged):
		r.refuse(frozen("the log %s signs nothing new, because what follows its first %d entries in the bucket is not readable: %w",
			r.key.name(), r.entries.tree().size(), err))
		return nil
	}
	return err
}

// loadSegments reads the segments without a gap from the first one on.
func (r *replica) loadSegments(ctx context.Context, firsts []int64) error {
	whole := 0
	for whole < len(firsts) && firsts[whole] == int64(whole)*runLength {
		whole++
	}
	for from := 0; from < whole; from += segmentsAtOnce {
		objects, err := atOnce(min(segmentsAtOnce, whole-from), segmentsAtOnce, func(i int) ([]byte, error) {
			return r.bucket.read(ctx, r.bucket.segmentKey(firsts[from+i]), maxSegment)
		})
		if err != nil {
			return err
		}
		for _, object := range objects {
			if err := r.takeSegment(object); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeSegment makes the batches of a segment the end of the log. The error is sumdb.ErrInvalid if they are
// not the next ones; then nothing changes.
func (r *replica) takeSegment(object []byte) error {
	batches, err := splitBatches(object)
	if err == nil && len(batches) != runLength {
		err = fmt.Errorf("%w: a segment has %d batches", sumdb.ErrInvalid, len(batches))
	}
	if err == nil {
		err = verifyAll(batches, r.key.verifier)
	}
	if err != nil {
		return err
	}
	at, fresh, err := follow(r.tip, r.entries.index, batches)
	if err == nil {
		err = r.entries.append(fresh)
	}
	if err != nil {
		return err
	}
	at.whole = nil
	return r.move(at, batches)
}

// checkEnd makes the log refuse if the bucket has something after the batch that is the first one to be
// absent.
func (r *replica) checkEnd(ctx context.Context, firsts []int64) error {
	if len(firsts) > 0 && firsts[len(firsts)-1]+runLength > r.tip.next {
		return r.contradicted(fmt.Errorf("%w: it has a segment of the batches from %d on, and no batch %d", errContradicts, firsts[len(firsts)-1], r.tip.next))
	}
	after, err := r.bucket.beyond(ctx, r.tip.next)
	if err != nil || after == 0 { // no distance is 0
		return err
	}
	// Another replica may have written all of them since the last look.
	if object, err := r.bucket.batch(ctx, r.tip.next); err != nil || object != nil {
		return err
	}
	return r.contradicted(fmt.Errorf("%w: it has batch %d, and no batch %d", errContradicts, after, r.tip.next))
}

// confront makes the log refuse if it does not have what this replica, or a guard, has seen.
func (r *replica) confront(found reports, kept []evidence) error {
	claims := found.claims
	for _, e := range kept {
		claims = append(claims, claim{file: fmt.Sprintf("%s (%s)", r.alarm.kept.path(), e.why), tree: e.tree})
	}
	larger, err := r.compare(claims)
	switch {
	case err != nil: // it refuses
		return nil
	case r.tip.next == 0 && len(claims) > 0: // a guard of no entries has seen batch 0
		r.contradicted(fmt.Errorf("%w: it has no log of this name, and %s is about one with %d entries", errContradicts, claims[0].file, claims[0].tree.N))
	case len(larger) > 0:
		r.contradicted(larger[0].against(r.entries.tree().size()), larger[0].tree)
	case found.named > r.entries.tree().size():
		r.contradicted(fmt.Errorf("%w: a guard in %s has %d in its name, and the bucket has %d entries",
			errContradicts, r.outposts.dir, found.named, r.entries.tree().size()))
	case len(kept) > 0 && r.writable():
		return os.Remove(r.alarm.kept.path()) // the bucket has everything again
	}
	return nil
}

// freshFor is how long a log without entries is taken for the one that was just begun: replicas need no guard
// to sign its first entry.
const freshFor = time.Hour

// clockSkew is how much later than ours the clock of the process may be that began the log. A time beyond that is
// wrong, and would make the log a new one until then.
const clockSkew = 5 * time.Minute

// fresh reports whether a log that was begun at this time was just begun.
func fresh(began time.Time) bool {
	age := time.Since(began)
	return age >= -clockSkew && age <= freshFor
}

// vouch makes r refuse if nothing says that the bucket has its newest state, unless it was just begun.
func (o bucketOpener) vouch(r *replica, known bool) {
	size := r.entries.tree().size()
	if known || size == 0 && fresh(r.began) {
		return
	}
	guard := "there is no guard"
	if file := o.config.Guard; file != "" {
		guard = "the guard " + file + " does not exist yet"
	}
	r.refuse(r.refusals.unvouched(fmt.Sprintf("nothing outside of the bucket shows that its %d entries are the newest ones: "+
		"this replica has not seen the log before, and %s", size, guard),
		"if you know that the bucket was not set back, start this replica once with log-trust-bucket; "+
			"with a guard elsewhere, log-guard, new replicas need no such word"))
}

// begin creates the log, which does not exist yet, if it may. A bucket that was emptied looks the same, so the
// word that the bucket has the newest state is not enough.
func (o bucketOpener) begin(ctx context.Context, r *replica, may bool) error {
	if entries := filepath.Join(filepath.Dir(o.config.Bucket.Key), "entries"); hasContent(entries) {
		r.refuse(frozen("%s is the key of the log with the entries in %s: to begin another log with it would contradict that one; "+
			"bring it to the bucket with assay log move", o.config.Bucket.Key, entries))
		return nil
	}
	if !may {
		return o.refuseAbsent(ctx, r)
	}
	return o.createFirst(ctx, r)
}

const absentRemedy = "if there never was one with this key, run assay log create, and restart this server; " +
	"otherwise put back the bucket, or check that store names the right bucket and prefix"

// refuseAbsent makes r refuse because the bucket has no log. Only traces of one say that it has lost it.
func (o bucketOpener) refuseAbsent(ctx context.Context, r *replica) error {
	traces := tracesOf(ctx, o.config, o.Name())
	switch {
	case traces == nil:
		r.refuse(r.refusals.unvouched("the bucket has no log of this name, and no trace of one", absentRemedy))
	case errors.Is(traces, sumdb.ErrFrozen):
		r.refuse(r.refusals.unvouched("the bucket has no log of this name, and there was one", oneLine(traces)))
	default:
		return traces
	}
	return nil
}

// createFirst creates batch 0, which has no entries, or reads the one that another replica has created.
func (o bucketOpener) createFirst(ctx context.Context, r *replica) error {
	b, err := nextBatch(r.tip, r.entries.tree(), nil, nil)
	if err != nil {
		return err
	}
	object, err := b.encode(r.key)
	if err != nil {
		return err
	}
	created := r.bucket.create(ctx, 0, object)
	if _, err := r.catchUp(ctx); err != nil {
		return err
	}
	if r.tip.next == 0 {
		return errors.Join(created, errors.New("the first batch of the log was created, and the bucket does not have it"))
	}
	return nil
}

// open shows what was read.
func (r *replica) open(ctx context.Context) error {
	if r.tip.next == 0 && !r.writable() && r.refusals.reason() == nil {
		return fmt.Errorf("the bucket has no log %s: %w", r.key.name(), fs.ErrNotExist)
	}
	err := r.publish(ctx)
	switch {
	case r.refusals.reason() != nil: // it is logged
		if r.view.Load().head == nil {
			r.showAll(r.following)
		}
		return nil
	case err != nil && r.view.Load().head == nil:
		return err
	case err != nil:
		r.log.Error("the log cannot be signed; the next append tries again", "database", r.key.name(), "size", r.size(), "err", err)
	default:
		r.log.Info("log opened in the bucket", "database", r.key.name(), "size", r.size())
	}
	return nil
}
