package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// file is a file of a version that is to be stored.
type file struct {
	req     request.Request
	info    storage.Info // with the key
	data    io.ReadSeeker
	content []byte // nil: too large for a batch
}

// putVersion stores the files of a version, and completes its proof before. The .info is last, because
// it makes the version one that is held. Small files are one batch, if possible with the proof: they
// wait for the disk once.
func (s *shelf) putVersion(ctx context.Context, v *version, p proved) error {
	files, err := s.filesOf(v, p)
	if err != nil {
		return err
	}
	large, small := split(files)
	together := pinlog.Dependents{Permit: func() error {
		_, err := s.gate.Check(v.Path)
		return err
	}}
	if len(large) == 0 {
		together.Objects = objectsOf(small)
		together.Stored = func() { s.parts.held.known.changed(small[len(small)-1].info.Key) }
	}
	if p.pin != nil {
		if stored, err := p.pin(ctx, together); err != nil || stored {
			return err
		}
	}
	for _, f := range large {
		if err := s.create(ctx, f.req, f.info, f.data); err != nil {
			return err
		}
	}
	return s.putSmall(ctx, small)
}

// filesOf returns the files of a version, in the order in which they are stored.
func (s *shelf) filesOf(v *version, p proved) ([]file, error) {
	stat, err := v.zip.Stat()
	if err != nil {
		return nil, err
	}
	files := []file{
		{req: v.request(request.Zip), info: storage.Info{Size: stat.Size(), Hash: v.zipHash, Proof: p.files}, data: v.zip},
		{req: v.request(request.Mod), info: storage.Info{Size: int64(len(v.mod)), Hash: v.modHash, Proof: p.files}, data: bytes.NewReader(v.mod)},
		{req: v.request(request.Info), info: infoOf(v.info, p.info), data: bytes.NewReader(v.info)},
	}
	for i := range files {
		f := &files[i]
		f.info.Key = s.keyFor(f.req, f.info)
		if f.info.Size > storage.MaxSmall {
			continue
		}
		f.content = make([]byte, f.info.Size)
		if _, err := f.data.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(f.data, f.content); err != nil {
			return nil, err
		}
		f.data = bytes.NewReader(f.content)
	}
	return files, nil
}

// split separates the files that are stored one by one from those that are one batch after them. The
// last file stays the last one.
func split(files []file) (large, small []file) {
	if files[len(files)-1].content == nil {
		return files, nil
	}
	for _, f := range files {
		if f.content == nil {
			large = append(large, f)
		} else {
			small = append(small, f)
		}
	}
	return large, small
}

// objectsOf returns small files as objects.
func objectsOf(files []file) (objects []storage.Small) {
	for _, f := range files {
		objects = append(objects, storage.Small{Info: f.info, Content: f.content})
	}
	return objects
}

// putSmall stores small files in one batch, or one by one if something else has one of their keys.
func (s *shelf) putSmall(ctx context.Context, files []file) error {
	if len(files) == 0 {
		return nil
	}
	store, err := s.gate.Store(files[0].req.Module)
	if err != nil {
		return err
	}
	defer s.parts.held.known.changed(files[len(files)-1].info.Key)
	err = store.Apply(ctx, storage.Batch{Create: objectsOf(files)})
	if !errors.Is(err, fs.ErrExist) && !errors.Is(err, storage.ErrDamaged) {
		return err
	}
	for _, f := range files {
		if err := s.create(ctx, f.req, f.info, f.data); err != nil {
			return err
		}
	}
	return nil
}
