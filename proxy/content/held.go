package content

import (
	"context"
	"iter"
	"path"
	"sync/atomic"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// holdings is the store without the methods that store objects of a module: those are for
// the gate alone.
type holdings interface {
	Open(ctx context.Context, key string) (storage.Object, error)
	Stat(ctx context.Context, key string) (storage.Info, error)
	List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error]
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

// Delete removes an object from the store.
func (s *heldStore) Delete(ctx context.Context, key string) error {
	defer s.known.changed(key)
	return s.holdings.Delete(ctx, key)
}

// versions returns the versions of a module whose .info v vouches for.
func (s *heldStore) versions(ctx context.Context, v storage.Voucher, modulePath string) (Versions, error) {
	dir := path.Dir(request.Request{Kind: request.List, Module: modulePath}.Path())
	prefix := v.Prefix(dir)
	known, changes, ok := s.known.find(prefix)
	if ok {
		return known, nil
	}
	var all []string
	for info, err := range s.List(ctx, prefix) {
		if err != nil {
			return Versions{}, err
		}
		if req, err := request.Parse(dir + "/" + info.Key[len(prefix):]); err == nil && req.Kind == request.Info && req.Immutable() {
			all = append(all, req.Version)
		}
	}
	versions := versionsOf(all)
	s.known.note(prefix, versions, changes)
	return versions, nil
}

// knownVersions remembers which versions of modules are held: to find them in the store
// takes some 3 µs for each. It belongs to the store and not to an origin, because fills
// that began before a reload change the store too.
type knownVersions struct {
	lists   memo.Map[string, Versions] // by the prefix of the keys
	changes atomic.Int64               // of the store since the start
}

// knownShare is the part of Memory.Hot that is for lists; the origins have the rest. Of 16
// MiB, it has room for 10 modules with 10,000 versions, and for some 8,000 with 10.
const knownShare = 8

// knownOverhead is about how much memory a list takes besides its versions and its prefix.
const knownOverhead = 128

// find returns the versions at a prefix, if they are known. If not, the caller lists them
// and notes them with the number of changes.
func (k *knownVersions) find(prefix string) (v Versions, changes int64, known bool) {
	changes = k.changes.Load() // first: the store may change while the caller lists
	v, known = k.lists.Get(prefix)
	return v, changes, known
}

// note remembers the versions at a prefix, unless the store has changed since they were
// listed.
func (k *knownVersions) note(prefix string, v Versions, changes int64) {
	k.lists.Change(prefix, func(Versions) (Versions, bool) { return v, changes == k.changes.Load() })
}

// changed is called after an object has been stored or removed.
func (k *knownVersions) changed(key string) {
	dir, file := path.Split(key)
	if path.Ext(file) != ".info" {
		return
	}
	k.changes.Add(1) // first: note may hold the lock
	k.lists.Delete(dir)
}

// knownSize is how many bytes v takes.
func knownSize(prefix string, v Versions) int { return len(prefix) + cap(v.lines) + knownOverhead }
