package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
)

// Voucher is what vouches for the files of modules that are stored, and the directory
// that their keys begin with: a listing of keys shows what is held, and for whom.
type Voucher string

// Upstream is the Voucher of what nothing but an upstream says: each public .info, and what
// was stored while no checksum database proved it.
const Upstream Voucher = "upstream"

// The directories of databases and of own logs. None of them has a dot, as the first
// element of each module path has.
const (
	provedDir = "proved/"
	pinnedDir = "pinned/"
)

// ProvedBy is the Voucher of what the checksum database with the name has proved.
func ProvedBy(database string) Voucher { return Voucher(provedDir + component(database)) }

// PinnedIn is the Voucher of what is pinned in the own log with the name.
func PinnedIn(log string) Voucher { return Voucher(pinnedDir + component(log)) }

// component makes one component of a name, which may have slashes.
func component(name string) string { return cutName(url.PathEscape(name)) }

// Key returns the key of the file that has a path of the protocol.
func (v Voucher) Key(path string) string { return Key(string(v) + "/" + Key(path)) }

// Prefix returns how the keys begin of what is in the directory dir, as the function does
// for paths.
func (v Voucher) Prefix(dir string) string { return Prefix(string(v) + "/" + cutDir(dir)) }

// CutVoucher takes apart what Voucher.Key has put together. The path is cut if it was too
// long for a key. It reports false for the key of anything else.
func CutVoucher(key string) (v Voucher, path string, ok bool) {
	if path, ok = strings.CutPrefix(key, string(Upstream)+"/"); ok {
		return Upstream, path, true
	}
	for _, dir := range []string{provedDir, pinnedDir} {
		rest, found := strings.CutPrefix(key, dir)
		if !found {
			continue
		}
		if name, path, ok := strings.Cut(rest, "/"); ok {
			return Voucher(dir + name), path, true
		}
	}
	return "", "", false
}

// Database reports whether a checksum database vouches.
func (v Voucher) Database() bool { return strings.HasPrefix(string(v), provedDir) }

// vouchersRecord is the record with all vouchers that a store has ever had but Upstream,
// one a line.
const vouchersRecord = "vouchers"

// Vouchers returns Upstream, and what NoteVoucher has noted.
func Vouchers(ctx context.Context, s Store) ([]Voucher, error) {
	all := []Voucher{Upstream}
	value, err := s.Record(ctx, vouchersRecord)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.FieldsSeq(string(value)) {
		all = append(all, Voucher(line))
	}
	return all, nil
}

// NoteVoucher notes that v is about to vouch for objects, so that these are found after the
// settings have changed.
func NoteVoucher(ctx context.Context, s Store, v Voucher) error {
	for {
		old, err := s.Record(ctx, vouchersRecord)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			old = nil
		case err != nil:
			return fmt.Errorf("note %s: %w", v, err)
		case slices.Contains(strings.Fields(string(old)), string(v)):
			return nil
		}
		added := append(slices.Clip(old), v+"\n"...)
		if err := s.SwapRecord(ctx, vouchersRecord, old, added); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}
