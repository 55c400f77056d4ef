package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// version has the files of a version from its repository.
type version struct {
	module.Version
	origin vcs.Origin

	info, mod []byte
	zip       *os.File

	modHash, zipHash string // h1
}

// request returns the path of one of the files.
func (v *version) request(kind request.Kind) request.Request {
	return request.Request{Kind: kind, Module: v.Path, Version: v.Version.Version}
}

// openVersion checks and hashes the files that the go command made of a version. The
// caller closes the zip.
func openVersion(ctx context.Context, of module.Version, files vcs.Files, z zips) (*version, error) {
	found, err := parseInfo(files.Info)
	if err == nil && found != of.Version {
		err = fmt.Errorf("the info is of version %q", found)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrGarbage, files.Origin.URL, err)
	}
	v := &version{Version: of, origin: files.Origin, info: files.Info, mod: files.Mod}
	if v.zip, err = os.Open(files.Zip); err != nil {
		return nil, fmt.Errorf("output of the go command: %w", err)
	}
	if err := v.hash(ctx, z); err != nil {
		_ = v.zip.Close() // it is only read
		return nil, err
	}
	return v, nil
}

func (v *version) hash(ctx context.Context, z zips) (err error) {
	stat, err := v.zip.Stat()
	if err != nil {
		return err
	}
	v.zipHash, err = z.hash(ctx, v.zip, stat.Size())
	if err == nil {
		err = modzip.CheckShape(v.zip, stat.Size()) // before it is pinned
	}
	if err == nil {
		err = z.checkMade(ctx, v.Version, v.mod, v.zip, stat.Size())
	}
	if errors.Is(err, modzip.ErrFormat) || errors.Is(err, modzip.ErrShape) {
		return fmt.Errorf("%w: %s: %w", ErrGarbage, v.origin.URL, err)
	}
	if err == nil {
		v.modHash, err = hashMod(bytes.NewReader(v.mod))
	}
	return err
}

// infoOf describes an .info for the store.
func infoOf(data []byte, proof string) storage.Info {
	return storage.Info{Size: int64(len(data)), Hash: fmt.Sprintf("sha256:%x", sha256.Sum256(data)), Proof: proof}
}

// parseInfo returns the version that an .info describes.
func parseInfo(data []byte) (version string, err error) {
	var info struct {
		Version string
		Time    time.Time
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return "", fmt.Errorf("not a JSON info: %w", err)
	}
	if module.CanonicalVersion(info.Version) != info.Version || info.Version == "" {
		return "", fmt.Errorf("it has no canonical version")
	}
	return info.Version, nil
}
