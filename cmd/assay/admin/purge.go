package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
)

// Purge is an order to remove the stored files of a module, or of one version of it, and the record
// of this purge.
type Purge struct {
	Module  string    `json:"module"`
	Version string    `json:"version,omitempty"` // "": all versions
	Reason  string    `json:"reason"`
	Pinned  bool      `json:"pinned,omitempty"` // also files that the own log has pinned
	Time    time.Time `json:"time"`
	Files   int       `json:"files"` // number of removed files
	Bytes   int64     `json:"bytes"`
}

const (
	PurgesState = "purges" // the state with all purges, one a line

	// maxPurges is how many purges the state keeps; the oldest ones are dropped.
	maxPurges = 1000

	// maxReason is the maximum length of a reason, which bounds the state.
	maxReason = 1000
)

// purger removes files from a store.
type purger struct {
	store  storage.Store
	board  *news.Board                // of the servers that share store; nil: there are none
	forget func([]content.Item) error // nil: nothing is in memory
	log    *slog.Logger
}

// purge removes files. It writes the record first, with the number of files that will be removed: a
// purge without a record is worse than a record of an interrupted one.
func (p *purger) purge(ctx context.Context, order Purge) (Purge, error) {
	mod := module.Version{Path: order.Module, Version: order.Version}
	if err := checkPurge(order); err != nil {
		return order, err
	}
	files, err := p.files(ctx, order)
	if err != nil {
		return order, err
	}
	order.Files, order.Bytes = len(files), 0
	for _, f := range files {
		order.Bytes += f.Size
	}
	order.Time = time.Now().UTC().Truncate(time.Second)
	if err := p.note(ctx, order); err != nil {
		return order, err
	}
	if p.board == nil {
		return order, p.remove(ctx, order, files)
	}
	under, err := content.BeginPurge(ctx, p.store, p.board, mod, files)
	if err != nil {
		return order, fmt.Errorf("nothing is removed: %w", err)
	}
	err = p.remove(ctx, order, files)
	if err == nil {
		err = content.EndPurge(ctx, p.store, under)
	}
	if err != nil {
		err = fmt.Errorf("%w; servers that share the store do the rest when they reach it", err)
	}
	return order, err
}

// remove removes files, and makes all forget them.
func (p *purger) remove(ctx context.Context, order Purge, files []content.Item) error {
	// Not what is stored by now: files that the own log has pinned meanwhile need --pinned, too.
	items, err := content.PurgeItems(ctx, p.store, module.Version{Path: order.Module, Version: order.Version}, files)
	var untold error
	if p.forget != nil {
		untold = p.forget(items)
	}
	if err != nil {
		return fmt.Errorf("%d of %d files are removed: %w", len(items), order.Files, err)
	}
	p.log.Warn("purged", "module", order.Module, "version", order.Version, "reason", order.Reason, "pinned", order.Pinned,
		"files", order.Files, "bytes", order.Bytes)
	if untold != nil {
		return fmt.Errorf("%d files are removed, and other servers may serve them yet: %w", len(items), untold)
	}
	return nil
}

func checkPurge(order Purge) error {
	err := module.CheckPath(order.Module)
	if err == nil && order.Version != "" {
		err = module.Check(order.Module, order.Version)
	}
	if err == nil && order.Reason == "" {
		err = errors.New("a purge needs a reason")
	}
	if err == nil && len(order.Reason) > maxReason {
		err = fmt.Errorf("the reason has %d bytes, of which %d are kept; say it in fewer words", len(order.Reason), maxReason)
	}
	return err
}

// files returns the files that the order is about. The error says why they must not be
// removed.
func (p *purger) files(ctx context.Context, order Purge) (files []content.Item, err error) {
	mod := module.Version{Path: order.Module, Version: order.Version}
	for item, err := range content.Files(ctx, p.store, mod) {
		if err != nil {
			return nil, err
		}
		// The key says so even if the log itself is lost, or another one has taken its place.
		if v, _, _ := storage.CutVoucher(item.Key); v.OwnLog() && !order.Pinned {
			return nil, fmt.Errorf("%s@%s is private, and pinned in the own log: if its repository has it no longer, it cannot be fetched again, "+
				"and with other content it is never accepted; to remove the stored files nevertheless, add --pinned", item.Module, item.Version)
		}
		files = append(files, item)
	}
	if len(files) == 0 {
		list := "assay ls"
		if order.Version != "" {
			list += " " + order.Module
		}
		return nil, fmt.Errorf("nothing is stored of %s; %s lists what is", mod, list)
	}
	return files, nil
}

// note adds an order to the record of all purges.
func (p *purger) note(ctx context.Context, order Purge) error {
	line, err := json.Marshal(order)
	if err != nil {
		return err
	}
	for {
		old, err := p.all(ctx)
		if err != nil {
			return err
		}
		lines := bytes.SplitAfter(append(append([]byte{}, old...), append(line, '\n')...), []byte{'\n'})
		lines = lines[max(0, len(lines)-1-maxPurges):] // the last one is empty
		if err := p.store.SwapState(ctx, PurgesState, old, bytes.Join(lines, nil)); !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
}

// all returns the record of all purges.
func (p *purger) all(ctx context.Context) ([]byte, error) {
	lines, err := p.store.State(ctx, PurgesState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return lines, err
}
