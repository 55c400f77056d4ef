package sumdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/panics"
)

// judge proves that signed heads are of our log. It stores nothing.
type judge struct {
	prover  *prover
	key     note.Verifier // of the database
	freezer *freezer
	metrics *metrics

	older memo.Map[tlog.Tree, struct{}] // smaller trees that are proved to be prefixes of our head, and stored
}

// maxOlder is how many smaller trees are remembered. The caches of upstream show a few dozen at a
// time.
const maxOlder = 4096

// step is a head that is proved to be of our log, and what must be stored before an answer may depend
// on it. Until then our head stays as it is: the step may be dropped, and settle judges the head again
// if ours has moved meanwhile.
type step struct {
	ours, theirs *head  // ours is nil before the first one
	from         string // where theirs was seen

	next  *head     // theirs with its tiles, if it is larger than ours; else nil
	tiles fullTiles // that prove theirs, if it is smaller and was not proved before
}

// head returns the larger one of both, which is proved.
func (s step) head() *head {
	if s.next != nil {
		return s.next
	}
	return s.ours
}

// held returns how many tiles s has in memory.
func (s step) held() int {
	if s.next != nil {
		return len(s.next.tiles)
	}
	return len(s.tiles)
}

// open opens the signed head msg. The error is ErrInvalid.
func (j *judge) open(msg []byte, from string) (*head, error) {
	h, err := openHead(msg, j.key)
	if err != nil {
		j.metrics.heads.WithLabelValues("refused").Inc()
		return nil, fmt.Errorf("%w: tree head in %s of %s: %v", ErrInvalid, from, j.prover.client.name, err)
	}
	return h, nil
}

// olderThan proves that theirs, which is not larger than ours, is a prefix of ours.
func (j *judge) olderThan(ctx context.Context, ours, theirs *head, from string) (step, error) {
	s := step{ours: ours, theirs: theirs, from: from}
	if _, proved := j.older.Get(theirs.tree); proved || theirs.tree == ours.tree {
		return s, nil
	}
	found, err := j.compare(ctx, theirs.tree, ours.tree, ours)
	if err != nil {
		return step{}, err
	}
	if found.root != theirs.tree.Hash {
		return step{}, j.refuseFork(ours, theirs, found, from)
	}
	s.tiles = j.prover.toStore(found.tiles)
	return s, nil
}

// newerThan proves that ours, nil before the first one, is a prefix of theirs. It reads the tiles of
// the right edge of ours under theirs, so that every answer that was possible stays possible. A head is
// not accepted before what other replicas have found is known: a replica that has seen a fork may have
// ended before it told the others.
func (j *judge) newerThan(ctx context.Context, ours, theirs *head, from string) (step, error) {
	var old tlog.Tree
	old.Hash, _ = tlog.TreeHash(0, nil)
	if ours != nil {
		old = ours.tree
	}
	var looking errgroup.Group // at what other replicas have found, while tiles are read
	looking.Go(func() error { return panics.Catch(func() error { return j.freezer.look(ctx) }) })
	found, err := j.compare(ctx, old, theirs.tree, ours.with(theirs))
	notSeen := looking.Wait()
	if err != nil {
		return step{}, err
	}
	if found.root != old.Hash {
		return step{}, j.refuseFork(ours, theirs, found, from)
	}
	if err := cmp.Or(notSeen, j.freezer.check()); err != nil {
		return step{}, err
	}
	next := *theirs
	next.tiles = found.tiles
	if ours != nil {
		next.inherit(ours)
	}
	return step{ours: ours, theirs: theirs, from: from, next: &next}, nil
}

// compare compares two trees of signed heads.
func (j *judge) compare(ctx context.Context, older, newer tlog.Tree, base *head) (comparison, error) {
	if err := j.freezer.check(); err != nil {
		return comparison{}, err
	}
	found, err := j.prover.compare(ctx, older, newer, base)
	if err != nil {
		j.countRefused(err)
	}
	return found, err
}

// addOlder remembers that tree is a prefix of our head, and so of every later one.
func (j *judge) addOlder(tree tlog.Tree) { j.older.Put(tree, struct{}{}) }

// countRefused counts a head that does not verify. It does not count one whose tiles could not be
// fetched.
func (j *judge) countRefused(err error) {
	if errors.Is(err, ErrInvalid) {
		j.metrics.heads.WithLabelValues("refused").Inc()
	}
}

// refuseFork freezes the mirror, because ours and theirs are of two logs.
func (j *judge) refuseFork(ours, theirs *head, found comparison, from string) error {
	j.metrics.heads.WithLabelValues("fork").Inc()
	j.metrics.forks.Inc()
	return j.freezer.freeze(ours, theirs, found, from)
}
