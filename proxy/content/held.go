package content

import (
	"context"
	"crypto/sha256"
	"iter"
	"path"
	"sync/atomic"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// holdings is the store without the methods that store objects of a module: those are for
// the gate alone.
type holdings interface {
	Open(ctx context.Context, key string) (storage.Object, error)
	Stat(ctx context.Context, key string) (storage.Info, error)
	Keys(ctx context.Context, prefix string) iter.Seq2[string, error]
	Delete(ctx context.Context, key string) error
	State(ctx context.Context, name string) ([]byte, error)
}

// heldStore is the store for reading, with the vouchers that its keys can begin with, and with the
// versions in it.
type heldStore struct {
	holdings
	vouchers []storage.Voucher // all that have ever vouched for something in it
	known    knownVersions
}

// warm is Stat, and reads ahead what is slow to read for the first time, if take agrees to its size, see
// storage.Warmer.
func (s *heldStore) warm(ctx context.Context, key string, take func(size int64) bool) (storage.Info, error) {
	if w, ok := s.holdings.(storage.Warmer); ok {
		return w.Warm(ctx, key, take)
	}
	return s.Stat(ctx, key)
}

// Delete removes an object from the store.
func (s *heldStore) Delete(ctx context.Context, key string) error {
	defer s.known.changed(key)
	return s.holdings.Delete(ctx, key)
}

// heldVersions are the versions of a module that are in the store.
type heldVersions struct {
	all  Versions
	list Versions // without the pseudo-versions, as a response to a list has them
	tag  []string // the header with the entity tag of list

	// Some versions at the prefix were not shown, see proof, when shown was the number of those that are:
	// these are the versions as long as it is.
	incomplete bool
	shown      int64

	read time.Time // when they were read from the store
}

func newHeldVersions(all Versions) heldVersions {
	tagged := all.Where(func(v string) bool { return !module.IsPseudoVersion(v) })
	if len(tagged.lines) == len(all.lines) {
		tagged = all // so that both take their memory once
	}
	return heldVersions{all: all, list: tagged, tag: []string{ETag(sha256.Sum256(tagged.lines))}}
}

// shower is the part of proof that says which held versions are shown.
type shower interface {
	shows(of module.Version) bool
	shown() int64
}

// versions returns the versions of a module whose .info v vouches for, without those that by does not show.
func (s *heldStore) versions(ctx context.Context, v storage.Voucher, modulePath string, by shower) (heldVersions, error) {
	dir := path.Dir(request.Request{Kind: request.List, Module: modulePath}.Path())
	prefix := v.Prefix(dir)
	begin := time.Now()
	known, changes, ok := s.known.find(prefix)
	shown := by.shown() // first: more may be shown while the store is listed
	if ok && (!known.incomplete || known.shown == shown) {
		return known, nil
	}
	var all []string
	incomplete := false
	for key, err := range s.Keys(ctx, prefix) {
		if err != nil {
			return heldVersions{}, err
		}
		if req, err := request.Parse(dir + "/" + key[len(prefix):]); err == nil && req.Kind == request.Info && req.Immutable() {
			if by.shows(req.ModuleVersion()) {
				all = append(all, req.Version)
			} else {
				incomplete = true
			}
		}
	}
	versions := newHeldVersions(versionsOf(all))
	versions.incomplete, versions.shown, versions.read = incomplete, shown, begin
	s.known.note(prefix, versions, changes)
	return versions, nil
}

// knownVersions remembers which versions of modules are held: to find them in the store
// takes some 3 µs for each, and to make a list of them some 0.3 µs. It belongs to the store and not to an origin, because fills
// that began before a reload change the store too.
type knownVersions struct {
	lists   memo.Map[string, heldVersions] // by the prefix of the keys
	changes atomic.Int64                   // of the store since the start, by this process
	shared  bool                           // other processes change the store, too
}

// knownFor is how long versions are known that other replicas can change: to be told of each stored object would
// cost more than to list a module again.
const knownFor = 2 * time.Second

// knownShare is the part of Memory.Hot that is for lists; the origins have the rest. Of 16
// MiB, it has room for 20 modules with 10,000 versions, and for some 3,500 with 10.
const knownShare = 8

// knownOverhead is about how much memory an entry takes besides its versions and its prefix.
const knownOverhead = 456

// find returns the versions at a prefix, if they are known. If not, the caller lists them
// and notes them with the number of changes.
func (k *knownVersions) find(prefix string) (v heldVersions, changes int64, known bool) {
	changes = k.changes.Load() // first: the store may change while the caller lists
	v, known = k.lists.Get(prefix)
	return v, changes, known && !(k.shared && time.Since(v.read) > knownFor)
}

// clear forgets all versions.
func (k *knownVersions) clear() {
	k.changes.Add(1)
	k.lists.Clear()
}

// note remembers the versions at a prefix, unless the store has changed since they were
// listed.
func (k *knownVersions) note(prefix string, v heldVersions, changes int64) {
	k.lists.Change(prefix, func(heldVersions) (heldVersions, bool) { return v, changes == k.changes.Load() })
}

// changed is called after an object has been stored or removed, in the goroutine that did so: one that
// waits for it may have given up before.
func (k *knownVersions) changed(key string) {
	dir, file := path.Split(key)
	if path.Ext(file) != ".info" {
		return
	}
	k.changes.Add(1) // first: note may hold the lock
	k.lists.Delete(dir)
}

// knownSize is how many bytes v takes.
func knownSize(prefix string, v heldVersions) int {
	size := len(prefix) + cap(v.all.lines) + knownOverhead
	if len(v.list.lines) < len(v.all.lines) {
		size += cap(v.list.lines)
	}
	return size
}
