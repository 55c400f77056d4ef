package pinlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/memory"
)

// appender decides for each pin whether it is appended, known already, or a conflict.
type appender struct {
	book   *book
	ledger ledger
	queue  *queue
	memory *memory.Budget // of the index

	patience  time.Duration // how long one append may take, however often other replicas write first
	overtaken func()        // counts that another replica has written first
}

// pin decides p, as Log.PinWith says. The error is p.err, or says why p was not decided.
func (a *appender) pin(ctx context.Context, p *pin) (err error) {
	if p.entry, err = p.entry.normal(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if v, id, ok := a.book.visible(p.entry.Module); ok {
		p.err = a.compare(p, v.tree, id)
		return p.err
	}
	if err := a.mayAppend(); err != nil {
		return fmt.Errorf("append %s: %w", p.entry.Module, err)
	}
	if err := a.queue.append(ctx, p, a.commit); err != nil {
		return err
	}
	return p.err
}

// ErrReadOnly is the error of Pin for a log that is open for reading only.
var ErrReadOnly = errors.New("open for reading only")

// mayAppend returns an error if nothing can be appended.
func (a *appender) mayAppend() error {
	if err := a.book.refusals.reason(); err != nil {
		return err
	}
	if !a.ledger.writable() {
		return fmt.Errorf("the log %s: %w", a.book.key.name(), ErrReadOnly)
	}
	if !a.memory.Try(entryMemory) {
		return fmt.Errorf("the index of the log %s with its %d entries: %w", a.book.key.name(), a.book.size(), memory.ErrFull)
	}
	a.memory.Give(entryMemory) // only a check: the entry takes its memory when it is appended
	return nil
}

// compare decides p by entry id of tree, which is an entry of the same version.
func (a *appender) compare(p *pin, tree hashTree, id int64) error {
	stored, err := a.book.entries.read(tree, id)
	if err == nil {
		p.decide(stored)
	}
	return err
}

// commit decides all of batch. The caller holds the queue.
func (a *appender) commit(batch []*pin) {
	if len(batch) == 0 {
		return
	}
	err := errPanic
	defer func() { a.finish(batch, err) }()
	// All of batch wait, so the end of one caller must not be theirs.
	ctx, cancel := context.WithTimeout(context.Background(), a.patience)
	defer cancel()
	for {
		if err = a.ledger.append(ctx, a.sortOut(batch)); err != errOvertaken {
			return
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("other replicas have written first, again and again for %v: %w; try again", a.patience, ctx.Err())
			return
		}
		a.overtaken()
	}
}

// errPanic is the error of the other pins of a batch whose writing panics. What is on disk then is what
// is there after an error in the same place.
var errPanic = errors.New("a defect of this program ended the writing of the log")

// finish ends the wait for all of batch, whose appending has ended with err.
func (a *appender) finish(batch []*pin, err error) {
	v := a.book.view.Load()
	for _, p := range batch {
		if err == errPanic || p.err == nil && err != nil && !v.has(p) {
			p.err = fmt.Errorf("append %s: %w", p.entry.Module, err)
		}
		p.finish(p.err)
	}
}

// sortOut decides each pin of batch whose version is on disk, signed or not, or earlier in batch.
// It returns the pins that are left to append, their entries numbered.
func (a *appender) sortOut(batch []*pin) (fresh []*pin) {
	tree := a.book.entries.tree()
	first := make(map[module.Version]*pin)
	for _, p := range batch {
		p.err, p.have = nil, nil
		if id, ok := a.book.entries.find(p.entry.Module); ok {
			p.err = a.compare(p, tree, id)
		} else if other := first[p.entry.Module]; other != nil {
			p.decide(other.entry)
		} else {
			p.fresh = true
			p.entry.ID = tree.size() + int64(len(fresh))
			first[p.entry.Module] = p
			fresh = append(fresh, p)
		}
	}
	return fresh
}
