package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// shelf has the stored objects of an origin.
type shelf struct {
	parts *parts
	gate  *gate.Gate
	proof proof
	hot   *hot
}

// open opens the stored object of req, whose path is given. An object that is damaged,
// or not proved under the settings in force, is removed and counts as not held: the error
// is errMiss. For c see proof.
func (s *shelf) open(ctx context.Context, c Client, req request.Request, path string) (storage.Object, error) {
	if c != nil {
		ctx = memory.WithOwner(ctx, c.Site())
	}
	for _, voucher := range s.proof.vouchers(req.Kind) {
		object, err := s.openAt(ctx, c, req, voucher.Key(path))
		if !errors.Is(err, errMiss) {
			return object, err
		}
	}
	return nil, errMiss
}

// openAt is open for one key.
func (s *shelf) openAt(ctx context.Context, c Client, req request.Request, key string) (storage.Object, error) {
	object, err := s.parts.held.Open(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMiss
	}
	if err == nil {
		if err = s.proof.check(ctx, c, req, object); err == nil {
			return object, nil
		}
		_ = object.Close() // it was only read
	}
	return nil, s.missing(ctx, key, err)
}

// missing returns the meaning of err, from reading the object at key. It removes the
// object if it must not be served.
func (s *shelf) missing(ctx context.Context, key string, err error) error {
	if errors.Is(err, storage.ErrDamaged) || errors.Is(err, errUnfit) {
		s.parts.drop(ctx, key, err)
		return errMiss
	}
	return err
}

// get is open for a client. It keeps objects in memory that may be requested again.
func (s *shelf) get(ctx context.Context, c Client, req request.Request, path string) (storage.Object, error) {
	object, err := s.open(ctx, c, req, path)
	if err != nil || !s.hot.wants(path, object.Info().Size) {
		return object, err
	}
	kept, err := s.keep(ctx, req, path, object)
	if err == nil && len(kept.Content) > HotSize {
		if _, err = object.Seek(0, io.SeekStart); err == nil {
			return object, nil // its memory is counted for the client, that of kept is not
		}
	}
	defer object.Close()
	if err != nil {
		return nil, s.missing(ctx, object.Info().Key, err)
	}
	return kept.open(), nil
}

// keep reads an object into hot memory.
func (s *shelf) keep(ctx context.Context, req request.Request, path string, object storage.Object) (*HotObject, error) {
	kept, err := readHot(req, object)
	if err != nil {
		return nil, err
	}
	s.hot.put(path, kept)
	if now, err := s.parts.held.Stat(ctx, kept.info.Key); err != nil || now.Hash != kept.info.Hash {
		s.hot.remove(path) // it was purged or replaced while it was read, perhaps before it was noted
	}
	return kept, nil
}

// read returns the content of a small stored object.
func (s *shelf) read(ctx context.Context, req request.Request) ([]byte, error) {
	object, err := s.open(ctx, nil, req, req.Path())
	if err != nil {
		return nil, err
	}
	defer object.Close()
	data, err := io.ReadAll(io.LimitReader(object, infoLimit)) // the beginning of a go.mod is enough for callers
	if err != nil {
		return nil, s.missing(ctx, object.Info().Key, err)
	}
	return data, nil
}

// has reports whether an object is stored for req.
func (s *shelf) has(ctx context.Context, req request.Request) bool {
	_, held := s.size(ctx, req)
	return held
}

// size returns the size of the object that is stored for req, and whether there is one.
func (s *shelf) size(ctx context.Context, req request.Request) (size int64, held bool) {
	for _, v := range s.proof.vouchers(req.Kind) {
		if info, err := s.parts.held.Stat(ctx, v.Key(req.Path())); err == nil {
			return info.Size, true
		}
	}
	return 0, false
}

// warm is size, and reads ahead what is stored and slow to read for the first time, if take agrees to its size. It ends
// when the Library is closed: a stop waits only for what clients have requested.
func (s *shelf) warm(ctx context.Context, req request.Request, take func(size int64) bool) (size int64, held bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.parts.rooms.predicting, cancel)()
	for _, v := range s.proof.vouchers(req.Kind) {
		if info, err := s.parts.held.warm(ctx, v.Key(req.Path()), take); err == nil {
			return info.Size, true
		}
	}
	return 0, false
}

// keyFor returns the key for a new object, which has a proof or not.
func (s *shelf) keyFor(req request.Request, info storage.Info) string {
	voucher := storage.Upstream
	if info.Proof != "" {
		voucher = s.proof.vouchers(req.Kind)[0]
	}
	return voucher.Key(req.Path())
}

// versions returns the versions of a module whose .info is stored, and whose proof is complete; the go
// command cannot use others.
func (s *shelf) versions(ctx context.Context, modulePath string) (heldVersions, error) {
	vouchers := s.proof.vouchers(request.Info)
	if len(vouchers) == 0 {
		return heldVersions{}, nil
	}
	return s.parts.held.versions(ctx, vouchers[0], modulePath, s.proof) // one voucher has all of an origin
}

// put stores a proved object, and reports whether this object is stored now, and not an
// equivalent one of another fill. It replaces an object that cannot be read.
func (s *shelf) put(ctx context.Context, req request.Request, info storage.Info, data io.ReadSeeker) (ours bool, err error) {
	return s.place(ctx, req, info, data, func(store storage.Store, info storage.Info) error { return store.Create(ctx, info, data) })
}

// commit is put for a content that is in the store already.
func (s *shelf) commit(ctx context.Context, req request.Request, info storage.Info, draft storage.Draft) (ours bool, err error) {
	data := io.NewSectionReader(draft, 0, info.Size)
	return s.place(ctx, req, info, data, func(_ storage.Store, info storage.Info) error { return draft.Commit(ctx, info) })
}

// place stores a proved object with create, or data in place of an object that cannot be
// read.
func (s *shelf) place(ctx context.Context, req request.Request, info storage.Info, data io.ReadSeeker, create func(storage.Store, storage.Info) error) (ours bool, err error) {
	store, err := s.gate.Store(req.Module)
	if err != nil {
		return false, err
	}
	info.Key = s.keyFor(req, info)
	defer s.parts.held.known.changed(info.Key)
	err = create(store, info)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	held, err := store.Stat(ctx, info.Key)
	if err == nil && held.Proof == info.Proof {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrDamaged) {
		return false, err
	}
	if _, err := data.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	err = store.Replace(ctx, info, data)
	s.parts.replicas.tellGone(s.parts.scope, info.Key)
	return err == nil, err
}

// replace stores an object in place of another one.
func (s *shelf) replace(ctx context.Context, req request.Request, info storage.Info, data io.Reader) error {
	store, err := s.gate.Store(req.Module)
	if err != nil {
		return err
	}
	info.Key = s.keyFor(req, info)
	defer s.parts.held.known.changed(info.Key)
	err = store.Replace(ctx, info, data)
	s.parts.replicas.tellGone(s.parts.scope, info.Key)
	return err
}

// create is put for callers that do not need to know which data is stored.
func (s *shelf) create(ctx context.Context, req request.Request, info storage.Info, data io.ReadSeeker) error {
	_, err := s.put(ctx, req, info, data)
	return err
}

// createProved is create for an object that depends on a proof, nil if there is none. A
// small object and its proof are one batch, so that both wait for the disk once.
func (s *shelf) createProved(ctx context.Context, req request.Request, info storage.Info, data []byte, proof *sumdb.Proof) error {
	switch {
	case proof == nil:
		return s.create(ctx, req, info, bytes.NewReader(data))
	case len(data) > storage.MaxSmall:
		if err := proof.Store(ctx, nil); err != nil {
			return err
		}
		return s.create(ctx, req, info, bytes.NewReader(data))
	}
	info.Key = s.keyFor(req, info)
	defer s.parts.held.known.changed(info.Key)
	permit := func() error {
		_, err := s.gate.Check(req.Module)
		return err
	}
	err := proof.Store(ctx, permit, storage.Small{Info: info, Content: data})
	if errors.Is(err, fs.ErrExist) || errors.Is(err, storage.ErrDamaged) {
		return s.create(ctx, req, info, bytes.NewReader(data)) // another object has the key
	}
	return err
}

// unreadable is the error for an object that was just stored and is not held. It is no
// absence: an upstream has the object.
func (s *shelf) unreadable(req request.Request) error {
	if _, err := s.gate.Check(req.Module); err != nil {
		return err
	}
	return fmt.Errorf("%s is stored but cannot be read", req.Path())
}
