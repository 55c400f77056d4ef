package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"

	"golang.org/x/mod/module"
)

// book is the part of a log that answers: the entries, and which of them are shown. The view may be
// read at any time; only the holder of the queue changes the rest.
type book struct {
	key      keyPair
	entries  *entryFile
	refusals *refusals
	log      *slog.Logger

	// view is the visible part of the log. It is replaced as a whole.
	view atomic.Pointer[view]
}

// ledger is where a log keeps its entries, and signs them: files, or a bucket. Only the holder of the
// queue uses it.
type ledger interface {
	// append writes the entries of pins, guards and signs everything that is written, and makes it
	// visible. After an error some of the entries may be visible; those are on disk and signed. The error
	// is errOvertaken if another replica has written first: then the entries have other numbers, or are
	// known by now. In a bucket it ends with ctx.
	append(ctx context.Context, pins []*pin) error

	// look reads and shows what other processes have written.
	look(ctx context.Context) error

	// freeze makes the log refuse because it signed seen and does not contain it. With keep, it still
	// refuses after a restart.
	freeze(seen signedHead, keep bool) error

	// writable reports whether the ledger may sign.
	writable() bool

	close() error
}

// errOvertaken means that another replica has written first.
var errOvertaken = errors.New("another replica has written to the log")

// view is the visible log at one moment. It does not change.
type view struct {
	tree    hashTree
	visible int64       // entries that can be found, at most those of tree
	head    *signedHead // nil only if the log refuses and has lost all heads
}

// has reports whether the entry that decided p is visible. Another replica may have written another one with
// its number.
func (v *view) has(p *pin) bool {
	decided := p.decided()
	return decided.ID < v.visible && v.tree.leaf(decided.ID) == decided.leaf()
}

// size returns the number of entries under the signed head.
func (v *view) size() int64 {
	if v.head == nil {
		return 0
	}
	return v.head.tree.N
}

// size returns the number of entries under the newest signed head.
func (b *book) size() int64 {
	if v := b.view.Load(); v != nil {
		return v.size()
	}
	return 0
}

// visible returns the number of the entry of mod, if it can be found, and the view with this entry.
func (b *book) visible(mod module.Version) (v *view, id int64, ok bool) {
	v = b.view.Load()
	id, ok = b.entries.find(mod)
	return v, id, ok && id < v.visible
}

// signed returns the view, which has a head.
func (b *book) signed(ctx context.Context) (*view, error) {
	v := b.view.Load()
	if v.head != nil {
		return v, ctx.Err()
	}
	if err := b.refusals.reason(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the log %s has no signed head yet: %w", b.key.name(), fs.ErrNotExist)
}

// showSigned makes the entries visible that head, which may be nil, covers.
func (b *book) showSigned(head *signedHead) {
	v := &view{tree: b.entries.tree(), head: head}
	v.visible = v.size()
	b.view.Store(v)
}

// showAll makes all entries visible, also those that no head covers.
func (b *book) showAll(head *signedHead) {
	tree := b.entries.tree()
	b.view.Store(&view{tree, tree.size(), head})
}

// refuse makes the log refuse until it is opened again. It returns the reason.
func (b *book) refuse(why error) error {
	b.refusals.begin(why)
	b.log.Error("the log signs nothing new", "database", b.key.name(), "size", b.size(), "err", why)
	return why
}
