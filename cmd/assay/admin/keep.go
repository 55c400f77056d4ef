package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
)

// Keep is an order to keep the stored zips of a module, or of one version of it, or to keep them no longer.
type Keep struct {
	Module  string `json:"module"`
	Version string `json:"version,omitempty"` // "": all versions
	Remove  bool   `json:"remove,omitempty"`
}

// keep carries out an order in a store. changed, if it is not nil, makes it apply.
func keep(ctx context.Context, order Keep, store storage.Store, changed func(context.Context) error) (err error) {
	mod := module.Version{Path: order.Module, Version: order.Version}
	if order.Remove {
		err = content.RemoveKeep(ctx, store, mod)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s is not kept by an order of its own; assay pin list shows what is", mod)
		}
	} else {
		err = content.AddKeep(ctx, store, mod, time.Now())
	}
	if err != nil || changed == nil {
		return err
	}
	return changed(ctx)
}
