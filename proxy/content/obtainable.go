package content

import (
	"context"
	"errors"
	"fmt"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// Obtainable reports whether an upstream still has the version of a stored zip: it asks for the .info, which is
// small. It is false for what must not be asked for, and for what only its repository has. An error says that no
// upstream answers, or that what answers is none, such as the page of a portal.
func (l *Library) Obtainable(ctx context.Context, info storage.Info) (bool, error) {
	_, path, ok := storage.CutVoucher(info.Key)
	req, err := request.Parse(path)
	if !ok || err != nil {
		return false, nil
	}
	now := l.now.Load()
	if now.settings.Offline() {
		return false, ErrOffline
	}
	ctx, chain, err := now.public.gate.Upstream(ctx, req.Module)
	if errors.Is(err, gate.ErrReloaded) { // it is private by the settings in force
		return false, nil
	}
	if err != nil {
		return false, err
	}
	held := l.parts.options.memory.Fetches.HoldFor(ctx)
	defer held.Free()
	req.Kind = request.Info
	data, source, err := chain.ReadAll(held.Context(ctx), req.Path(), infoLimit)
	switch {
	case err == nil:
		version, err := parseInfo(data)
		if err == nil && version != req.Version {
			err = fmt.Errorf("the info is of version %q", version)
		}
		if err != nil {
			return false, fmt.Errorf("%w: %s: %w", ErrGarbage, source, err)
		}
		return true, nil
	case notfound.Is(err), errors.Is(err, fetch.ErrRefused), errors.Is(err, fetch.ErrDirect), errors.Is(err, fetch.ErrTooLarge):
		return false, nil
	}
	return false, err
}
