package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// outside is a guard of a log in a bucket that all replicas may share.
type outside interface {
	// read returns the text of the guard, nil if there is none.
	read(ctx context.Context) ([]byte, error)

	// replace sets the text, which was old. The error is storage.ErrConflict if another replica has.
	replace(ctx context.Context, old, text []byte) error

	// place describes where the guard is.
	place() string
}

// outsideState is a guard in another store.
type outsideState struct {
	store storage.Store
	name  string
}

func newOutsideState(store storage.Store, log string) outsideState {
	return outsideState{store, "log/guards/" + path.Base(storage.LogDir(log))}
}

func (s outsideState) place() string { return "the state " + s.name + " of the guard's store" }

func (s outsideState) read(ctx context.Context) ([]byte, error) {
	text, err := s.store.State(ctx, s.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

func (s outsideState) replace(ctx context.Context, old, text []byte) error {
	return s.store.SwapState(ctx, s.name, old, text)
}

// outposts are the guards that a replica has of a log in a bucket: one in a directory of its own, and those
// that all replicas share. Only the holder of the queue uses them.
type outposts struct {
	dir     string // of the guard of this replica; "": none
	shared  []outside
	key     string          // verifier key of the log
	written tlog.Tree       // in the guard of this replica
	seen    map[string]bool // the places of shared guards that this replica has read or written
}

func newOutposts(c Config, dir string, key keyPair) *outposts {
	p := &outposts{dir: dir, key: key.public, seen: make(map[string]bool)}
	if c.Guard != "" {
		p.shared = append(p.shared, newOutsideFile(c.Guard))
	}
	if c.Bucket.Guard != nil {
		p.shared = append(p.shared, newOutsideState(c.Bucket.Guard, key.name()))
	}
	return p
}

// replicaDir returns the directory in which a replica keeps what it knows of the log.
func replicaDir(dir, log string) string {
	return filepath.Join(dir, "bucket", path.Base(storage.LogDir(log)))
}

// reports is what the guards say about a log.
type reports struct {
	claims []claim
	named  int64 // the largest size in the name of a guard with another text
	vouch  bool  // a guard can tell whether the bucket was set back
}

// readAll reads all guards.
func (p *outposts) readAll(ctx context.Context) (found reports, err error) {
	if found.claims, err = p.readShared(ctx); err != nil {
		return found, err
	}
	found.vouch = len(found.claims) > 0
	if p.dir == "" {
		return found, nil
	}
	files, err := readGuards(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	for i, f := range files {
		switch {
		case errors.Is(f.err, sumdb.ErrInvalid):
			found.named = max(found.named, f.size)
		case f.err != nil:
			return found, fmt.Errorf("guard: %w", f.err)
		case f.guard.key != p.key:
			return found, p.foreign(f.path, f.guard)
		default:
			found.claims = append(found.claims, claim{file: f.path, tree: f.guard.tree})
			// A copy of an older guard proves nothing about what its replica has signed since.
			found.vouch = found.vouch || i == len(files)-1 && f.copied(identity{}) == ""
		}
	}
	return found, nil
}

// readShared reads the guards that all replicas share.
func (p *outposts) readShared(ctx context.Context) (claims []claim, err error) {
	for _, o := range p.shared {
		g, text, err := p.readOne(ctx, o)
		if err != nil {
			return nil, err
		}
		if text != nil {
			claims = append(claims, claim{file: o.place(), tree: g.tree})
		}
	}
	return claims, nil
}

// readOne returns the guard o, and its text, nil if there is none. One that was seen before must be there: a new one
// would know nothing of what other replicas have signed.
func (p *outposts) readOne(ctx context.Context, o outside) (g guard, text []byte, err error) {
	if text, err = o.read(ctx); err != nil {
		return g, nil, fmt.Errorf("guard: %w", err)
	}
	if text == nil && p.seen[o.place()] {
		return g, nil, fmt.Errorf("guard: %s, which this replica has seen, is gone; put its newest text back, "+
			"or restart the replica if another guard takes its place", o.place())
	}
	if text == nil {
		return g, nil, nil
	}
	if g, err = decodeGuard(text); err != nil {
		return g, nil, fmt.Errorf("guard: %s: %w; put its newest text back", o.place(), err)
	}
	if g.key != p.key {
		return g, nil, p.foreign(o.place(), g)
	}
	p.seen[o.place()] = true
	return g, text, nil
}

func (p *outposts) foreign(place string, g guard) error {
	return frozen("the guard %s is that of the log with the key %s; name another guard, or the key of that log", place, g.key)
}

// errBehind means that a guard has a larger tree than the one that is about to be signed: another replica has
// signed it since the last look, of this bucket, or of one that was set back meanwhile.
type errBehind struct{ claim }

func (e errBehind) Error() string {
	return fmt.Sprintf("guard: %s has a tree of %d entries already: another replica has signed", e.file, e.tree.N)
}

// write records in all guards that tree is about to be signed. Only after nil it may be signed. The error is an
// errBehind if a guard has a larger tree, which stays, and errContradicts if one has another tree of this size.
func (p *outposts) write(ctx context.Context, tree tlog.Tree) error {
	if p.dir != "" && p.written != tree {
		if err := writeGuardFile(p.dir, guard{key: p.key, tree: tree, inside: true}); err != nil {
			return fmt.Errorf("guard: %w", diskError(err))
		}
		p.written = tree
	}
	for _, o := range p.shared {
		if err := p.writeShared(ctx, o, tree); err != nil {
			return err
		}
	}
	return nil
}

func (p *outposts) writeShared(ctx context.Context, o outside, tree tlog.Tree) error {
	for {
		g, old, err := p.readOne(ctx, o)
		if err != nil {
			return err
		}
		switch {
		case old == nil || g.tree.N < tree.N:
		case g.tree.N > tree.N:
			return errBehind{claim{file: o.place(), tree: g.tree}}
		case g.tree != tree:
			return fmt.Errorf("%w: %s has another tree of %d entries", errContradicts, o.place(), tree.N)
		default:
			return nil
		}
		err = o.replace(ctx, old, guard{key: p.key, tree: tree}.encode())
		if err == nil {
			p.seen[o.place()] = true
			return nil
		}
		if !errors.Is(err, storage.ErrConflict) {
			return fmt.Errorf("guard: %w", err)
		}
	}
}
