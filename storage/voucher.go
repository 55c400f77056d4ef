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

// Voucher names what vouches for the stored files of modules. It is the directory with which their
// keys begin: a listing of keys shows what is held, and for whom.
type Voucher string

// Upstream is the Voucher of files that nothing but an upstream states: each public .info, and
// files that were stored while no checksum database proved them.
const Upstream Voucher = "upstream"

// The directories of databases and of own logs. They contain no dot, unlike the first element of
// every module path.
const (
	provedDir = "proved/"
	pinnedDir = "pinned/"
)

// ProvedBy returns the Voucher of files that the checksum database with this name has proved.
func ProvedBy(database string) Voucher { return Voucher(provedDir + component(database)) }

// PinnedIn returns the Voucher of files that are pinned in the own log with this name.
func PinnedIn(log string) Voucher { return Voucher(pinnedDir + component(log)) }

// LogPrefix is how the keys of the objects of every own log begin. No voucher has such a key, so no purge
// removes them, and nothing else may.
const LogPrefix = "log/"

// LogDir returns the directory of the objects of the own log with this name, in a store that several
// replicas share.
func LogDir(log string) string { return LogPrefix + component(log) }

// component returns a name, which may have slashes, as one component.
func component(name string) string { return cutName(url.PathEscape(name)) }

// Key returns the key of the file with this path of the protocol.
func (v Voucher) Key(path string) string { return Key(string(v) + "/" + Key(path)) }

// Prefix returns the prefix of the keys of files directly in the directory dir, like the function
// Prefix for paths.
func (v Voucher) Prefix(dir string) string { return Prefix(string(v) + "/" + cutDir(dir)) }

// CutVoucher splits a key into the arguments of Voucher.Key. The path is cut if it was too long for
// a key. ok is false for any other key.
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

// OwnLog reports whether the version is pinned in a log of our own.
func (v Voucher) OwnLog() bool { return strings.HasPrefix(string(v), pinnedDir) }

// vouchersState is the state with all vouchers that a store has ever had except Upstream, one a
// line.
const vouchersState = "vouchers"

// Vouchers returns Upstream, and all vouchers that NoteVoucher has noted.
func Vouchers(ctx context.Context, s Store) ([]Voucher, error) {
	all := []Voucher{Upstream}
	value, err := s.State(ctx, vouchersState)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.FieldsSeq(string(value)) {
		all = append(all, Voucher(line))
	}
	return all, nil
}

// NoteVoucher notes that v is about to vouch for objects, so that they are found after the settings
// have changed.
func NoteVoucher(ctx context.Context, s Store, v Voucher) error {
	for {
		old, err := s.State(ctx, vouchersState)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			old = nil
		case err != nil:
			return fmt.Errorf("note %s: %w", v, err)
		case slices.Contains(strings.Fields(string(old)), string(v)):
			return nil
		}
		added := append(slices.Clip(old), v+"\n"...)
		if err := s.SwapState(ctx, vouchersState, old, added); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}
