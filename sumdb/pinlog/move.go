package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/durable"
)

// Move brings the log in c.Dir to c.Bucket, and returns its size. The key in c.Bucket.Key must be the same.
// No process may have either of them open. First the directory gets a mark, and never signs again until
// MoveBack; then the bucket gets evidence of the whole log, so that no replica continues a part of it. An
// interrupted Move is continued by the next one, into the same store and no other one. When it returns nil,
// everything in the bucket was read again and compared. A Move that was complete is never done again: replicas may
// have continued the log. The error is sumdb.ErrFrozen if the log refuses, or if the bucket has another one, or
// not the one that was brought there.
func Move(ctx context.Context, c Config) (size int64, err error) {
	files := c
	files.Bucket = nil
	from, err := newLog(files)
	if err != nil {
		return 0, err
	}
	to, err := newLog(c)
	if err != nil {
		return 0, err
	}
	m := mover{fileOpener{from}, bucketOpener{to}, c.Bucket.Place}
	size, err = m.toBucket(ctx)
	if err = errors.Join(err, from.closeFiles(), to.closeFiles()); err != nil {
		return 0, fmt.Errorf("move the log in %s to the bucket: %w", c.Dir, err)
	}
	return size, nil
}

// MoveBack brings the log in c.Bucket to c.Dir, and returns its size. A last batch ends it in the bucket: it
// wins against every replica, or comes after what they have written. Then the directory gets the entries and
// the newest head, and is adopted, as after a restore: if it has a log already, that must be a part of this
// one which Move has left there. An interrupted MoveBack is continued by the next one: the last batch names this
// directory, and the log can be brought to no other one. The error is fs.ErrNotExist if the bucket has no log.
func MoveBack(ctx context.Context, c Config) (size int64, err error) {
	files := c
	files.Bucket = nil
	to, err := newLog(files)
	if err != nil {
		return 0, err
	}
	from, err := newLog(c)
	if err != nil {
		return 0, err
	}
	m := mover{fileOpener{to}, bucketOpener{from}, c.Bucket.Place}
	head, size, err := m.toFiles(ctx)
	if err = errors.Join(err, from.closeFiles(), to.closeFiles()); err == nil && head != nil {
		err = Adopt(ctx, files, head)
	}
	if err != nil {
		return 0, fmt.Errorf("move the log in the bucket to %s: %w", c.Dir, err)
	}
	return size, nil
}

// mover moves a log between a directory and a bucket.
type mover struct {
	files  fileOpener
	bucket bucketOpener
	place  string
}

func (m mover) toBucket(ctx context.Context) (size int64, err error) {
	if err := m.files.openKey(ctx, false); err != nil {
		return 0, err
	}
	found, err := m.files.read(ctx, true)
	if err != nil {
		return 0, err
	}
	// A backup of a directory with a mark has no guards. What it says of an interrupted move may be old.
	if len(found.damage) > 0 && !(found.moved != nil && len(found.damage) == 1 && found.guards.newest != nil) {
		return 0, m.files.refusals.contradicted(errors.Join(found.damage...), false)
	}
	if err := m.bucket.openKey(ctx); err != nil {
		return 0, err
	}
	if m.bucket.key.public != m.files.key.public {
		return 0, fmt.Errorf("%s is not the key of the log; give the bucket a copy of %s", m.bucket.config.Bucket.Key, m.files.config.location().keyPath())
	}
	r, err := m.bucket.newReplica()
	if err != nil {
		return 0, err
	}
	if err := m.readAll(ctx, r); err != nil {
		return 0, err
	}
	tree := found.entries.index.tree
	whole, err := tree.at(tree.size())
	if err != nil {
		return 0, err
	}
	there, err := r.entries.tree().at(r.entries.tree().size())
	if err != nil {
		return 0, err
	}
	arrived := !r.tip.closed && there.N >= whole.N && r.entries.tree().contains(whole)
	mark, err := m.mark(r.tip, arrived)
	switch {
	case err != nil:
		return 0, err
	case mark.complete:
		if err := m.checkBucket(ctx, whole); err != nil {
			return 0, err
		}
		return there.N, hideKey(m.files.config.location(), m.bucket.config.Bucket.Key, m.files.log)
	case found.moved != nil && arrived: // and replicas may have continued it
		return there.N, m.complete(ctx, r, mark, whole)
	case !tree.contains(there):
		return 0, frozen("the bucket has a log %s whose %d entries are not of the log in %s: it stays as it is", r.key.name(), there.N, m.files.config.Dir)
	}
	ended := m.bucket.config.Bucket.OthersEnded
	if _, why, err := m.bucket.alone(ctx, ended, true); err != nil || why != nil {
		return 0, errors.Join(err, why)
	}
	if err := m.markMoved(mark); err != nil {
		return 0, err
	}
	if why, err := m.bucket.claim(ctx, ended, true); err != nil || why != nil {
		return 0, errors.Join(err, why)
	}
	e, err := newEvidence(whole, "assay log move has not brought all entries to the bucket yet: run it again", r.key.signer)
	if err == nil {
		err = r.alarm.posted.add(ctx, []evidence{e})
	}
	if err != nil {
		return 0, err
	}
	if err := m.copyEntries(ctx, r, found); err != nil {
		return 0, err
	}
	return whole.N, m.complete(ctx, r, mark, whole)
}

// mark returns the mark of this move, or that of an earlier call. The log in the bucket ends at end; arrived means
// that all entries are there. The error is sumdb.ErrFrozen if the log may go on elsewhere.
func (m mover) mark(end tip, arrived bool) (*moveMark, error) {
	at, id := m.files.config.location(), m.bucket.config.Bucket.ID
	if id == "" {
		return nil, fmt.Errorf("the store in %s has no ID: another one could take its place", m.place)
	}
	mark, err := readMark(at)
	if err != nil {
		return nil, err
	}
	if mark == nil {
		return &moveMark{place: m.place, store: id, next: end.next}, nil
	}
	if err := mark.checkStore(at, id); err != nil {
		return nil, err
	}
	switch {
	case end.closed && (mark.complete || end.next > mark.next):
		return nil, frozen("assay log move --back has ended the log in %s since it was brought there from %s: it goes on in the directory "+
			"to which it was brought back; if that is this one, run assay log move --back again", m.place, at.dir)
	case mark.complete && !arrived:
		return nil, frozen("the whole log was brought from %s to %s, where servers may have continued it, and now the bucket does not have "+
			"its entries: put back the newest state of the bucket", at.dir, m.place)
	}
	return mark, nil
}

// markMoved makes the directory a log that never signs again. MoveBack gives it another word then.
func (m mover) markMoved(mark *moveMark) error {
	at := m.files.config.location()
	if err := mark.write(at); err != nil {
		return err
	}
	if err := durable.Replace(at.path(BackupMark), []byte("This log was brought to a bucket.\n"), 0o600); err != nil {
		return err
	}
	if err := os.Remove(at.path(targetMark)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(at.dir)
}

// readAll reads all batches, and does not compare them with guards and evidence.
func (m mover) readAll(ctx context.Context, r *replica) error {
	for {
		objects, err := r.bucket.batches(ctx, r.tip.next, readsAtOnce)
		if err != nil || len(objects) == 0 {
			return err
		}
		if err := r.take(objects); err != nil {
			return err
		}
		r.tip.whole = nil
	}
}

// copyEntries writes batches with the entries that the bucket does not have yet.
func (m mover) copyEntries(ctx context.Context, r *replica, found *findings) error {
	at := m.files.config.location()
	source, err := openEntries(m.files.Name(), at.path("entries"), false, found.entries.index, nil)
	if err != nil {
		return err
	}
	defer source.close()
	tree := source.tree()
	if r.tip.next == 0 || r.tip.closed {
		if err := m.copyBatch(ctx, r, nil); err != nil {
			return err
		}
	}
	var next []Entry
	size := 0
	for e, err := range source.scan(tree, r.entries.tree().size(), tree.size()) {
		if err != nil {
			return err
		}
		length := frameHeader + len(e.encode())
		if len(next) > 0 && size+length > batchRoom {
			if err := m.copyBatch(ctx, r, next); err != nil {
				return err
			}
			next, size = nil, 0
		}
		next, size = append(next, e), size+length
	}
	if len(next) == 0 {
		return nil
	}
	return m.copyBatch(ctx, r, next)
}

// copyBatch creates the next batch, and reads it back.
func (m mover) copyBatch(ctx context.Context, r *replica, entries []Entry) error {
	var head *signedHead
	tree, err := r.entries.tree().at(r.entries.tree().size())
	if err != nil {
		return err
	}
	if r.tip.next > 0 { // part of what the log has signed, so it contradicts nothing
		signed, err := signHead(tree, r.key.signer)
		if err != nil {
			return err
		}
		head = &signed
	}
	b, err := nextBatch(r.tip, r.entries.tree(), head, entries)
	if err != nil {
		return err
	}
	object, err := b.encode(r.key)
	if err != nil {
		return err
	}
	created := r.bucket.create(ctx, b.number, object)
	if errors.Is(created, fs.ErrExist) {
		return fmt.Errorf("another process writes to the log in the bucket; stop it, and move again: %w", created)
	}
	objects, err := r.bucket.batches(ctx, b.number, 1)
	if err == nil && len(objects) == 0 {
		err = errors.Join(created, fmt.Errorf("the bucket does not have batch %d", b.number))
	}
	if err == nil {
		err = r.take(objects)
	}
	if err == nil {
		r.consolidate(ctx)
	}
	return err
}

// checkBucket reads everything in the bucket again.
func (m mover) checkBucket(ctx context.Context, whole tlog.Tree) error {
	a := newAudit(m.bucket.config, m.bucket.key)
	if err := a.run(ctx); err != nil {
		return err
	}
	if !a.index.tree.contains(whole) {
		a.wrong("the bucket does not have the %d entries of the log", whole.N)
	}
	if len(a.damage) > 0 {
		return frozen("the log in the bucket is not what it should be: %w", errors.Join(a.damage...))
	}
	return nil
}

// complete ends a move whose entries are all in the bucket. It writes the guards after the mark, and only if no
// replica has continued the log: from then on they would vouch for an older state than the newest one.
func (m mover) complete(ctx context.Context, r *replica, mark *moveMark, whole tlog.Tree) error {
	if err := m.checkBucket(ctx, whole); err != nil {
		return err
	}
	mark.complete = true
	if err := mark.write(m.files.config.location()); err != nil {
		return err
	}
	if err := hideKey(m.files.config.location(), m.bucket.config.Bucket.Key, m.files.log); err != nil {
		return err
	}
	if r.entries.tree().size() > whole.N {
		return nil
	}
	if err := r.outposts.write(ctx, whole); err != nil {
		return fmt.Errorf("the whole log is in the bucket, but not in each guard; start the first server with log-trust-bucket: %w", err)
	}
	return nil
}

// toFiles returns the newest head, with which the directory must be adopted; nil if it is the log already.
func (m mover) toFiles(ctx context.Context) (head []byte, size int64, err error) {
	r, err := m.openBucket(ctx)
	if err != nil {
		return nil, 0, err
	}
	at := m.files.config.location()
	if m.files.lock, err = takeLock(at.path("lock")); err != nil {
		return nil, 0, err
	}
	// What would be refused below must not end the log in the bucket.
	if _, err := m.checkTarget(ctx, r); err != nil {
		return nil, 0, err
	}
	if err := m.end(ctx, r); err != nil {
		return nil, 0, err
	}
	tree := r.entries.tree()
	if r.following == nil || r.following.tree.N != tree.size() {
		return nil, 0, errors.New("the last batch of the log has no head")
	}
	done, err := m.checkTarget(ctx, r)
	if err != nil || done {
		return nil, tree.size(), err
	}
	return r.following.note, tree.size(), m.writeFiles(r)
}

// openBucket opens the log in the bucket, which must have it.
func (m mover) openBucket(ctx context.Context) (*replica, error) {
	if err := m.bucket.openKey(ctx); err != nil {
		return nil, err
	}
	first, err := newBucketDir(m.bucket.config.Bucket.Store, m.bucket.Name()).batch(ctx, 0)
	if err == nil && first == nil {
		err = fmt.Errorf("the bucket has no log %s: %w", m.bucket.Name(), fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	if err := m.bucket.openFor(ctx, toEnd); err != nil {
		return nil, err
	}
	r, ok := m.bucket.ledger.(*replica)
	if !ok {
		return nil, errors.New("the log is not in a bucket")
	}
	return r, nil
}

// end ends the log in the bucket, unless it has ended: it goes on in this directory, and in no other one.
func (m mover) end(ctx context.Context, r *replica) error {
	at := m.files.config.location()
	for !r.tip.closed {
		if err := r.publish(ctx); err != nil {
			return err
		}
		if err := r.refusals.reason(); err != nil {
			return err
		}
		b, err := nextBatch(r.tip, r.entries.tree(), r.view.Load().head, nil)
		if err != nil {
			return err
		}
		b.closed = true
		if b.target, err = makeTarget(at); err != nil {
			return err
		}
		if _, err := r.writeBatch(ctx, b); err != nil {
			return err
		}
	}
	if err := r.refusals.reason(); err != nil && !errors.Is(err, errClosedBatch) {
		return err
	}
	word, err := readTarget(at)
	if err == nil && (word == "" || word != r.tip.target) {
		err = frozen("assay log move --back has brought the log from the bucket to another directory than %s: it goes on there. "+
			"If that directory is lost, put back its newest backup", at.dir)
	}
	return err
}

// checkTarget returns an error if the directory has something that must not be replaced by the log of r, or if that
// has gone elsewhere. It reports whether the directory has that log already, or a continuation of it.
func (m mover) checkTarget(ctx context.Context, r *replica) (done bool, err error) {
	at := m.files.config.location()
	if key, err := readKey(at.keyPath()); err == nil && key.public != m.bucket.key.public {
		return false, frozen("%s has the log %s with another key: it stays as it is", at.dir, key.name())
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	mark, err := readMark(at)
	if err == nil && mark != nil {
		err = mark.checkStore(at, m.bucket.config.Bucket.ID)
	}
	if err != nil {
		return false, err
	}
	file, err := os.Open(at.path("entries"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	there := foundEntries{index: newEntryIndex()}
	if err := readEntries(ctx, file, &there); err != nil {
		return false, err
	}
	local, err := there.index.tree.at(there.index.tree.size())
	if err != nil {
		return false, err
	}
	tree := r.entries.tree()
	whole, err := tree.at(tree.size())
	if err != nil {
		return false, err
	}
	marked := mark != nil || exists(at.path(BackupMark))
	switch {
	case !marked && r.tip.closed && there.index.tree.contains(whole):
		return true, nil
	case !marked && local.N > 0:
		return false, frozen("%s has a log of %d entries that was not brought to a bucket: it stays as it is", at.dir, local.N)
	case !tree.contains(local):
		return false, frozen("the %d entries in %s are not of the log in the bucket: they stay as they are", local.N, at.dir)
	}
	return false, nil
}

// writeFiles writes the files of the log, beside the mark of a backup: until it is adopted, it signs nothing.
func (m mover) writeFiles(r *replica) error {
	at := m.files.config.location()
	if err := durable.Replace(at.path(BackupMark), []byte("This log is being brought here from a bucket.\n"), 0o600); err != nil {
		return err
	}
	secret, err := os.ReadFile(m.bucket.config.Bucket.Key)
	if err != nil {
		return err
	}
	if !exists(at.path("key")) {
		if err := durable.Replace(at.path("key"), secret, 0o600); err != nil {
			return err
		}
	}
	if err := r.key.writePublicFile(at); err != nil {
		return err
	}
	var frames []byte
	tree := r.entries.tree()
	for e, err := range r.entries.scan(tree, 0, tree.size()) {
		if err != nil {
			return err
		}
		frames = appendFrame(frames, e.encode())
	}
	if err := durable.Replace(at.path("entries"), frames, 0o600); err != nil {
		return err
	}
	heads, err := os.ReadFile(at.path("heads"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old, _, end := splitHeads(heads)
	if len(old) == 0 || string(old[len(old)-1]) != string(r.following.note) {
		heads = append(heads[:end], r.following.note...)
	}
	if err := durable.Replace(at.path("heads"), heads, 0o600); err != nil {
		return err
	}
	if err := durable.Replace(at.path("head"), r.following.note, 0o600); err != nil {
		return err
	}
	for _, name := range []string{movedMark, movedKey} { // the key is there under its own name
		if err := os.Remove(at.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return durable.SyncDir(at.dir)
}
