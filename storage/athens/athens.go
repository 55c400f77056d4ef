// Package athens makes a storage.Store a storage backend of Athens
// (github.com/gomods/athens/pkg/storage), so that Athens can run on our store and
// our store can be put to the tests of Athens.
package athens

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/gomods/athens/pkg/errors"
	athens "github.com/gomods/athens/pkg/storage"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/storage"
)

// Backend is a storage backend of Athens. A version is there when its .info is,
// which is stored last and deleted first.
//
// What is stored is not proved, so its keys are below storage.Upstream: only the server,
// package proxy, proves it. It compares such objects with their record before it serves them.
type Backend struct {
	store storage.Store
}

var (
	_ athens.Backend = (*Backend)(nil)
	_ athens.Checker = (*Backend)(nil)
)

// New returns a backend that keeps everything in store.
func New(store storage.Store) *Backend { return &Backend{store} }

// pathOf returns the protocol path of a file of a version. Athens' tests use names
// that are no module paths, so it escapes letters without checking more than
// that the elements are file names.
func pathOf(modulePath, version, suffix string) (string, error) {
	prefix, err := versionPrefix(modulePath)
	if err != nil {
		return "", err
	}
	version, err = module.EscapeVersion(version)
	return prefix + version + suffix, err
}

// versionPrefix returns how the paths of all versions of a module begin.
func versionPrefix(modulePath string) (string, error) {
	var b strings.Builder
	for element := range strings.SplitSeq(modulePath, "/") {
		escaped, err := module.EscapeVersion(element) // the escaping is the same
		if err != nil {
			return "", err
		}
		b.WriteString(escaped)
		b.WriteByte('/')
	}
	return b.String() + "@v/", nil
}

// explain gives an error the kind that Athens decides on.
func explain(op errors.Op, modulePath, version string, err error) error {
	kind := errors.KindUnexpected
	switch {
	case errors.IsErr(err, fs.ErrNotExist):
		kind = errors.KindNotFound
	case errors.IsErr(err, fs.ErrExist):
		kind = errors.KindAlreadyExists
	}
	return errors.E(op, err, errors.M(modulePath), errors.V(version), kind)
}

// Info implements Athens' Getter. The error's kind is KindNotFound if there is
// no such version.
func (b *Backend) Info(ctx context.Context, modulePath, version string) ([]byte, error) {
	return b.read(ctx, "athens.Info", modulePath, version, ".info")
}

// GoMod implements Athens' Getter, like Info.
func (b *Backend) GoMod(ctx context.Context, modulePath, version string) ([]byte, error) {
	return b.read(ctx, "athens.GoMod", modulePath, version, ".mod")
}

func (b *Backend) read(ctx context.Context, op errors.Op, modulePath, version, suffix string) ([]byte, error) {
	o, err := b.open(ctx, modulePath, version, suffix)
	if err != nil {
		return nil, explain(op, modulePath, version, err)
	}
	defer o.Close()
	data, err := io.ReadAll(o)
	if err != nil {
		return nil, explain(op, modulePath, version, err)
	}
	return data, nil
}

// Zip implements Athens' Getter, like Info.
func (b *Backend) Zip(ctx context.Context, modulePath, version string) (athens.SizeReadCloser, error) {
	o, err := b.open(ctx, modulePath, version, ".zip")
	if err != nil {
		return nil, explain("athens.Zip", modulePath, version, err)
	}
	return athens.NewSizer(o, o.Info().Size), nil
}

func (b *Backend) open(ctx context.Context, modulePath, version, suffix string) (storage.Object, error) {
	key, err := b.find(ctx, modulePath, version, suffix)
	if err != nil {
		return nil, err
	}
	return b.store.Open(ctx, key)
}

// find returns the key of a file of a version. Its voucher is Upstream if there is no such file,
// and may be another one if a server has used the store.
func (b *Backend) find(ctx context.Context, modulePath, version, suffix string) (string, error) {
	path, err := pathOf(modulePath, version, suffix)
	if err != nil {
		return "", err
	}
	vouchers, err := storage.Vouchers(ctx, b.store)
	if err != nil {
		return "", err
	}
	for _, v := range vouchers {
		if _, err := b.store.Stat(ctx, v.Key(path)); !errors.IsErr(err, fs.ErrNotExist) {
			return v.Key(path), err
		}
	}
	return storage.Upstream.Key(path), nil
}

// Exists implements Athens' Checker.
func (b *Backend) Exists(ctx context.Context, modulePath, version string) (bool, error) {
	key, err := b.find(ctx, modulePath, version, ".info")
	if err == nil {
		_, err = b.store.Stat(ctx, key)
	}
	if errors.IsErr(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, explain("athens.Exists", modulePath, version, err)
	}
	return true, nil
}

// List implements Athens' Lister: the versions in the order of semver. A module
// that is not there has none.
func (b *Backend) List(ctx context.Context, modulePath string) ([]string, error) {
	const op errors.Op = "athens.List"
	prefix, err := versionPrefix(modulePath)
	if err != nil {
		return nil, explain(op, modulePath, "", err)
	}
	var versions []string
	keys := storage.Upstream.Prefix(strings.TrimSuffix(prefix, "/"))
	for key, err := range b.store.Keys(ctx, keys) {
		if err != nil {
			return nil, explain(op, modulePath, "", err)
		}
		escaped, ok := strings.CutSuffix(key[len(keys):], ".info")
		if !ok {
			continue
		}
		version, err := module.UnescapeVersion(escaped)
		if err != nil {
			return nil, explain(op, modulePath, escaped, err)
		}
		versions = append(versions, version)
	}
	slices.SortFunc(versions, semver.Compare)
	return versions, nil
}

// Save implements Athens' Saver. What is stored never changes: the error's kind
// is KindAlreadyExists if another content has the version already, and to save
// the same again is no error. zipMD5 is not used, since the store has checksums of
// its own.
func (b *Backend) Save(ctx context.Context, modulePath, version string, mod []byte, zip io.Reader, zipMD5, info []byte) error {
	const op errors.Op = "athens.Save"
	if err := b.save(ctx, modulePath, version, mod, zip, info); err != nil {
		return explain(op, modulePath, version, err)
	}
	return nil
}

func (b *Backend) save(ctx context.Context, modulePath, version string, mod []byte, zip io.Reader, info []byte) error {
	for _, file := range []struct {
		suffix  string
		content io.Reader
	}{{".zip", zip}, {".mod", bytes.NewReader(mod)}, {".info", bytes.NewReader(info)}} {
		key, err := b.find(ctx, modulePath, version, file.suffix)
		if err != nil {
			return err
		}
		if err := b.create(ctx, key, file.content); err != nil {
			return err
		}
	}
	return nil
}

// create stores one file, or finds the same content there already, as an
// interrupted Save leaves it.
func (b *Backend) create(ctx context.Context, key string, content io.Reader) error {
	draft, err := b.store.Draft(ctx, -1) // Athens does not say the size
	if err != nil {
		return err
	}
	defer draft.Close()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(draft, sum), content)
	if err != nil {
		return err
	}
	hash := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	err = draft.Commit(ctx, storage.Info{Key: key, Size: size, Hash: hash})
	if !errors.IsErr(err, fs.ErrExist) {
		return err
	}
	stored, statErr := b.store.Stat(ctx, key)
	if statErr != nil {
		return statErr
	}
	if stored.Hash != hash {
		return fmt.Errorf("%s has another content: %w", key, err)
	}
	return nil
}

// Delete implements Athens' Deleter. The error's kind is KindNotFound if nothing
// of the version is there.
func (b *Backend) Delete(ctx context.Context, modulePath, version string) error {
	const op errors.Op = "athens.Delete"
	deleted := false
	for _, suffix := range []string{".info", ".mod", ".zip"} {
		key, err := b.find(ctx, modulePath, version, suffix)
		if err == nil {
			err = b.store.Delete(ctx, key)
		}
		switch {
		case err == nil:
			deleted = true
		case !errors.IsErr(err, fs.ErrNotExist):
			return explain(op, modulePath, version, err)
		}
	}
	if !deleted {
		return explain(op, modulePath, version, fs.ErrNotExist)
	}
	return nil
}
