package content

import (
	"context"
	"errors"
	"io/fs"
	"iter"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// Catalog lists the held versions of the modules of an origin, and what proves them. It
// sends no requests, and does not check which client may read the answer: its caller
// does, with Origin.Admit. It is for pages about modules, which do not exist yet.
type Catalog struct {
	held  holdings
	shelf *shelf
	proof proof
}

// Catalog returns the Catalog of o.
func (o *Origin) Catalog() Catalog { return Catalog{o.parts.held, o.shelf, o.shelf.proof} }

// Modules yields the modules with a held version that can be served, in the order of their keys, each once.
// It omits a module whose path is so long that its key is cut: the key does not show the
// path. It walks the keys of the whole origin.
func (c Catalog) Modules(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		last := ""
		for key, err := range c.infos(ctx) {
			if err != nil {
				yield("", err)
				return
			}
			_, path, _ := storage.CutVoucher(key)
			req, err := request.Parse(path)
			if err != nil || req.Kind != request.Info || !req.Immutable() || req.Module == last || !c.proof.shows(req.ModuleVersion()) {
				continue
			}
			if last = req.Module; !yield(last, nil) {
				return
			}
		}
	}
}

// infos yields the keys of what is held where the .info files are: one voucher has all of an origin.
func (c Catalog) infos(ctx context.Context) iter.Seq2[string, error] {
	vouchers := c.proof.vouchers(request.Info)
	if len(vouchers) == 0 {
		return func(func(string, error) bool) {}
	}
	return c.held.Keys(ctx, string(vouchers[0])+"/")
}

// Versions returns the held versions of a module. It omits those without an .info, and those whose
// proof is not complete, because the go command cannot use them.
func (c Catalog) Versions(ctx context.Context, modulePath string) (Versions, error) {
	held, err := c.shelf.versions(ctx, modulePath)
	return held.all, err
}

// Explanation lists the held files of a version, with their source and their proof.
type Explanation struct {
	Version module.Version
	Source  string         // the repository and commit, or the upstream; "" if it is no longer known
	Files   []storage.Info // at most three; Proof names the database or the log that has the hash
}

// Explain explains a version. It omits damaged files, because serving them detects the damage, and all
// files of a version whose proof is not complete, because they are not served.
func (c Catalog) Explain(ctx context.Context, of module.Version) (Explanation, error) {
	e := Explanation{Version: of, Source: c.proof.source(ctx, of)}
	if !c.proof.shows(of) {
		return e, nil
	}
	for _, kind := range []request.Kind{request.Info, request.Mod, request.Zip} {
		path := request.Request{Kind: kind, Module: of.Path, Version: of.Version}.Path()
		for _, voucher := range c.proof.vouchers(kind) {
			info, err := c.held.Stat(ctx, voucher.Key(path))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrDamaged) {
				continue
			}
			if err != nil {
				return Explanation{}, err
			}
			e.Files = append(e.Files, info)
			break
		}
	}
	return e, nil
}
