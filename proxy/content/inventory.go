package content

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"strings"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// Item is an object of a store as an administrator sees it.
type Item struct {
	Key      string
	Module   string    // "" if the object is not a file of a module, or if its key does not show the module
	Version  string    // of the module
	File     string    // info, mod or zip
	Database string    // the checksum database whose record or tile it is, "" if it is none
	Size     int64     // bytes
	Proof    string    // the database or the own log that vouches for the object, "" if there is none
	Stored   time.Time // when it was stored
}

// Inventory yields the objects of a store, those of modules in the order of their paths, so
// that the files of a module follow each other whatever vouches for them. If modulePath is not
// "", these are the files of that module and of the modules below it.
func Inventory(ctx context.Context, store storage.Store, modulePath string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		vouchers, err := storage.Vouchers(ctx, store)
		if err != nil {
			yield(Item{}, err)
			return
		}
		var lists []iter.Seq2[storage.Info, error]
		for _, v := range vouchers {
			lists = append(lists, store.List(ctx, string(v)+"/"+escaped(modulePath)))
		}
		for info, err := range merged(lists) {
			_, path, _ := storage.CutVoucher(info.Key)
			item := itemOf(info, path)
			if err == nil && modulePath != "" && item.Module != modulePath && !strings.HasPrefix(item.Module, modulePath+"/") {
				continue
			}
			if !yield(item, err) {
				return
			}
		}
		if modulePath != "" {
			return
		}
		for info, err := range store.List(ctx, "sumdb/") {
			if !yield(itemOf(info, info.Key), err) {
				return
			}
		}
	}
}

// merged yields the objects of several lists, each of one voucher, in the order of what
// follows the vouchers in their keys. An error ends it.
func merged(lists []iter.Seq2[storage.Info, error]) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		var all []*listing
		for _, list := range lists {
			pull, stop := iter.Pull2(list)
			defer stop()
			l := &listing{pull: pull}
			l.next()
			all = append(all, l)
		}
		for {
			var first *listing
			for _, l := range all {
				if l.more && (first == nil || l.err != nil || first.err == nil && l.path < first.path) {
					first = l
				}
			}
			if first == nil || !yield(first.info, first.err) || first.err != nil {
				return
			}
			first.next()
		}
	}
}

// listing is a list of which one object at a time is looked at.
type listing struct {
	pull func() (storage.Info, error, bool)
	info storage.Info
	path string // its key without the voucher
	err  error
	more bool // there is an object or an error
}

func (l *listing) next() {
	l.info, l.err, l.more = l.pull()
	_, l.path, _ = storage.CutVoucher(l.info.Key)
}

// escaped returns a module path, or the beginning of one, as it is written in keys.
func escaped(modulePath string) string {
	var b strings.Builder
	for _, r := range modulePath {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// itemOf describes an object; path is the path of the protocol for its key.
func itemOf(info storage.Info, path string) Item {
	item := Item{Key: info.Key, Size: info.Size, Proof: info.Proof, Stored: info.Time}
	if rest, ok := strings.CutPrefix(path, "sumdb/"); ok {
		item.Database, _, _ = strings.Cut(rest, "/")
	} else if req, err := request.Parse(path); err == nil && req.Immutable() {
		item.Module, item.Version, item.File = req.Module, req.Version, req.Kind.String()
	}
	return item
}

// Files yields the stored files of a module, or of one version of it, including those
// whose keys do not show the module.
func Files(ctx context.Context, store storage.Store, mod module.Version) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		vouchers, err := storage.Vouchers(ctx, store)
		if err != nil {
			yield(Item{}, err)
			return
		}
		for _, v := range vouchers {
			for item, err := range filesOf(ctx, store, v, mod) {
				if !yield(item, err) {
					return
				}
			}
		}
	}
}

// filesOf yields those of Files for which v vouches.
func filesOf(ctx context.Context, store storage.Store, v storage.Voucher, mod module.Version) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		dir := escaped(mod.Path) + "/@v"
		prefix := v.Prefix(dir)
		for info, err := range store.List(ctx, prefix) {
			item := Item{}
			if err == nil {
				item = itemOf(info, dir+"/"+info.Key[len(prefix):])
				if item.Module != mod.Path || mod.Version != "" && item.Version != mod.Version {
					continue
				}
			}
			if !yield(item, err) {
				return
			}
		}
	}
}

// Purge removes the stored files of a module, or of one version of it, and the stored
// answers about the module: its list and its latest version. It returns the removed
// items; a running Library must Forget them, and so must those of other replicas, see TellPurged.
func Purge(ctx context.Context, store storage.Store, mod module.Version) (purged []Item, err error) {
	var items []Item
	for item, err := range Files(ctx, store, mod) {
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return PurgeItems(ctx, store, mod, items)
}

// PurgeItems is Purge for only these files of the module, of all that Files yields.
func PurgeItems(ctx context.Context, store storage.Store, mod module.Version, items []Item) (purged []Item, err error) {
	for i, item := range items {
		if err := store.Delete(ctx, item.Key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return items[:i], err
		}
		if item.File == "zip" {
			if err := forgetDirect(ctx, store, module.Version{Path: item.Module, Version: item.Version}); err != nil {
				return items[:i+1], err
			}
		}
	}
	for _, kind := range []request.Kind{request.List, request.Latest} {
		for _, prefix := range []string{publicPrefix, privatePrefix} {
			name := prefix + request.Request{Kind: kind, Module: mod.Path}.Path()
			if err := store.DeleteState(ctx, storage.Key(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return items, err
			}
		}
	}
	return items, nil
}
