package pinlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/internal/memory"
)

// pin is an entry that somebody waits for.
type pin struct {
	entry Entry  // what was asked for; what is stored, in the end
	have  *Entry // what it contradicts
	fresh bool   // it is stored for this one
	err   error
	done  chan struct{} // closed when the rest is decided
}

// id is the entry on which the answer rests.
func (p *pin) id() int64 {
	if p.have != nil {
		return p.have.ID
	}
	return p.entry.ID
}

// finish tells who waits.
func (p *pin) finish(err error) {
	p.err = err
	close(p.done)
}

// entryMemory is what an entry takes in memory: two hashes, an offset, an index entry.
const entryMemory = 120

// Pin appends e as the first content of its version. It is on disk and under a
// signed head when Pin returns; those who pin at the same time share the writes.
// If the log has the version with the same hashes, that entry is returned. All
// of e but ID is taken from the caller.
//
// The errors are *ConflictError if the log has other hashes; sumdb.ErrInvalid if e can
// be in no log; sumdb.ErrFrozen if the log refuses; and those of the disk, after which
// the log is as it was, or has e without showing it yet: try again. If ctx ends
// first, e may be appended nevertheless.
func (l *Log) Pin(ctx context.Context, e Entry) (Entry, error) {
	stored, result, err := l.pin(ctx, e)
	l.metrics.appends.WithLabelValues(appendResult(result, err)).Inc()
	return stored, err
}

func (l *Log) pin(ctx context.Context, e Entry) (Entry, string, error) {
	e, err := e.normal()
	if err != nil {
		return Entry{}, "", err
	}
	if err := ctx.Err(); err != nil {
		return Entry{}, "", err
	}
	if p, err := l.known(e); p != nil || err != nil {
		return p.result(err)
	}
	if err := l.Refuses(); err != nil {
		return Entry{}, "", fmt.Errorf("append %s: %w", e.Module, err)
	}
	if l.config.ReadOnly {
		return Entry{}, "", fmt.Errorf("append %s: the log %s is open for reading only: %w", e.Module, l.Name(), errors.ErrUnsupported)
	}
	if !l.config.Memory.Try(entryMemory) {
		return Entry{}, "", fmt.Errorf("append %s: the index of the log %s with its %d entries: %w", e.Module, l.Name(), l.Size(), memory.ErrFull)
	}
	l.config.Memory.Give(entryMemory) // it is taken when the entry is there
	p := &pin{entry: e, done: make(chan struct{})}
	if err := l.enqueue(p); err != nil {
		return Entry{}, "", err
	}
	return l.await(ctx, p)
}

// result is what Pin returns of a pin that is decided. A nil pin has only err.
func (p *pin) result(err error) (Entry, string, error) {
	switch {
	case err != nil:
		return Entry{}, "", err
	case p.have != nil:
		return Entry{}, "", &ConflictError{Have: *p.have, Got: p.entry}
	case p.fresh:
		return p.entry, "appended", nil
	}
	return p.entry, "known", nil
}

// known decides about e if the log has its version, and can show it.
func (l *Log) known(e Entry) (*pin, error) {
	v := l.view.Load()
	id, ok := l.find(e.Module)
	if !ok || id >= v.visible {
		return nil, nil
	}
	p := &pin{entry: e}
	return p, l.compare(p, v.tree, id)
}

// compare decides about p by entry id, which is of the same version.
func (l *Log) compare(p *pin, tree hashTree, id int64) error {
	stored, err := l.readEntry(tree, id)
	if err != nil {
		return err
	}
	p.settle(stored)
	return nil
}

// settle decides about p by stored, which is of the same version.
func (p *pin) settle(stored Entry) {
	if stored.same(p.entry) {
		p.entry = stored
	} else {
		p.have = &stored
	}
}

func (l *Log) find(mod module.Version) (id int64, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	id, ok = l.index[keyOf(mod)]
	return id, ok
}

func (l *Log) enqueue(p *pin) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	l.queue = append(l.queue, p)
	return nil
}

// await waits until p is decided. Whoever gets the turn decides for all who wait.
func (l *Log) await(ctx context.Context, p *pin) (Entry, string, error) {
	for {
		select {
		case <-p.done:
			return p.result(p.err)
		case <-ctx.Done():
			l.mu.Lock()
			l.queue = slices.DeleteFunc(l.queue, func(q *pin) bool { return q == p })
			l.mu.Unlock()
			return Entry{}, "", ctx.Err()
		case l.turn <- struct{}{}:
			l.mu.Lock()
			batch := l.queue
			l.queue = nil
			l.mu.Unlock()
			l.commit(batch)
			l.giveTurn()
		}
	}
}

// commit decides about all of batch. The turn is ours.
func (l *Log) commit(batch []*pin) {
	if len(batch) == 0 {
		return
	}
	fresh := l.sortOut(batch)
	err := l.Refuses()
	if err == nil {
		err = l.checkAlone()
	}
	if err == nil {
		err = l.cutTails()
	}
	if err == nil {
		err = l.write(fresh)
	}
	if err == nil {
		err = l.publish(false)
	}
	visible := l.view.Load().visible
	for _, p := range batch {
		if p.err == nil && err != nil && p.id() >= visible {
			p.err = fmt.Errorf("append %s: %w", p.entry.Module, err)
		}
		p.finish(p.err)
	}
}

// sortOut compares batch with what is on disk, also if it is not signed yet, and
// with itself. It returns what is left to be appended, numbered.
func (l *Log) sortOut(batch []*pin) (fresh []*pin) {
	first := make(map[module.Version]*pin)
	for _, p := range batch {
		if id, ok := l.find(p.entry.Module); ok {
			p.err = l.compare(p, l.tree, id)
		} else if other := first[p.entry.Module]; other != nil {
			p.settle(other.entry)
		} else {
			p.fresh = true
			p.entry.ID = l.tree.size() + int64(len(fresh))
			first[p.entry.Module] = p
			fresh = append(fresh, p)
		}
	}
	return fresh
}

// write appends fresh to the file of entries, durably. If it fails, the file is as
// it was, or the log refuses: after a failed sync nobody knows what is on disk
// (see lwn.net/Articles/752063), so nothing may be built on it.
func (l *Log) write(fresh []*pin) error {
	if len(fresh) == 0 {
		return nil
	}
	var frames []byte
	ends := make([]int, len(fresh))
	for i, p := range fresh {
		frames = appendFrame(frames, p.entry.encode())
		ends[i] = len(frames)
	}
	if _, err := l.entries.WriteAt(frames, l.tree.end()); err != nil {
		if cut := l.entries.Truncate(l.tree.end()); cut != nil {
			l.stop(cut)
		}
		return diskError(err)
	}
	if err := l.entries.Sync(); err != nil {
		return l.stop(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	start := 0
	for i, p := range fresh {
		if err := l.tree.add(p.entry.leaf(), ends[i]-start); err != nil {
			return err
		}
		start = ends[i]
		l.index[keyOf(p.entry.Module)] = p.entry.ID
		l.config.Memory.Must(entryMemory)
	}
	return nil
}

// stop makes the log refuse after an error of the disk.
func (l *Log) stop(why error) error {
	return l.refuse(&refusal{fmt.Sprintf("the log %s signs nothing new after an error of the disk: %v; check the disk, then restart", l.Name(), why), why})
}

// refuse makes the log refuse until it is opened again. It returns why.
func (l *Log) refuse(why error) error {
	l.mu.Lock()
	if l.refuses == nil {
		l.refuses = why
	}
	l.mu.Unlock()
	l.log.Error("the log signs nothing new", "database", l.Name(), "size", l.Size(), "err", why)
	return why
}

// publish makes all that is on disk visible. The guards are first: should we never
// get further, the next start knows what may have been signed. A head that is
// there already is published only if again is set.
func (l *Log) publish(again bool) error {
	tree, err := l.tree.at(l.tree.size())
	if err != nil {
		return err
	}
	if head := l.view.Load().head; !again && head != nil && head.tree == tree {
		return nil
	}
	if err := l.writeGuards(tree, l.entries); err != nil {
		return fmt.Errorf("guard: %w", diskError(err))
	}
	// A backup may have been put back while this was written.
	if err := l.refuseUnlessAlone(l.checkEnds()); err != nil {
		return err
	}
	head, err := signHead(tree, l.signer)
	if err != nil {
		return err
	}
	if err := l.writeHead(head); err != nil {
		return diskError(err)
	}
	l.view.Store(&view{l.tree, tree.N, &head})
	return nil
}

// writeHead adds head to the history, if it is not its last one, and makes it the
// newest.
func (l *Log) writeHead(head signedHead) error {
	if !l.endsHistory(head) {
		if err := l.writeHistory(head); err != nil {
			return err
		}
	}
	return durable.Replace(l.path("head"), head.note, 0o600)
}

// endsHistory says whether head is the last of the history: an attempt to publish
// it came that far.
func (l *Log) endsHistory(head signedHead) bool {
	last := make([]byte, len(head.note))
	_, err := l.heads.ReadAt(last, max(0, l.headsEnd-int64(len(last))))
	return err == nil && bytes.Equal(last, head.note)
}

func (l *Log) writeHistory(head signedHead) error {
	_, err := l.heads.WriteAt(head.note, l.headsEnd)
	if err == nil {
		err = l.heads.Sync()
	}
	if err != nil {
		// Without the part that was written, or else with it: the next head
		// is written over it.
		return errors.Join(err, l.heads.Truncate(l.headsEnd))
	}
	l.headsEnd += int64(len(head.note))
	return nil
}

// oneLine is the text of an error that may be several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
