package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// pinned is the own log, and the objects that this process has compared with it.
type pinned struct {
	log      pins
	zips     zips
	evidence evidence

	checked  memo.Map[memo.Key, kinds] // files whose content has been compared, by their keys without .info, .mod or .zip
	checking *flight.Group[struct{}]   // by key
}

// pins is the own log without the method that pins: that is for a gate alone.
type pins interface {
	Name() string
	Size() int64
	Find(ctx context.Context, mod module.Version) (pinlog.Entry, error)
	Shows(mod module.Version) bool
	Latest(ctx context.Context) ([]byte, error)
	Reply(ctx context.Context, r sumdb.Record) ([]byte, error)
	Tile(ctx context.Context, t tlog.Tile) ([]byte, error)
}

// kinds is a set of kinds of files.
type kinds uint16

// maxChecked limits the memory to some 2 MiB, see maxAbsent, for the files of as many versions; those
// that it drops are compared again.
const maxChecked = 28000

func newPinned(log pins, scope *flight.Scope, z zips, e evidence) *pinned {
	p := &pinned{log: log, zips: z, evidence: e, checking: flight.NewGroup[struct{}](scope)}
	p.checked.Limit = maxChecked
	return p
}

// check checks a stored object that was pinned, once in the life of this process: its
// content must have the hash that the own log has, because a program that can write to
// the disk can write both the content and its stored hash. The log does not cover an
// .info, see checkInfo. Afterwards the object is at its beginning. The error is errMiss
// if the log has no entry for it, or does not show it yet.
func (p *pinned) check(ctx context.Context, req request.Request, object storage.Object) error {
	key := object.Info().Key
	if p.wasChecked(key, req.Kind) {
		return nil
	}
	if req.Kind == request.Info {
		if _, err := p.find(ctx, req.ModuleVersion()); err != nil {
			return err
		}
		err := checkInfo(req, object)
		if err == nil {
			p.noteChecked(key, req.Kind)
		}
		return err
	}
	// Once for all concurrent clients, because a zip is copied for it. The client that
	// began waits for the end, because its object is read.
	f, _, err := p.checking.Join(places.For{}, flight.Work[struct{}]{Key: key, Do: func(ctx context.Context, _ *flight.Flight[struct{}]) error {
		if p.wasChecked(key, req.Kind) {
			return nil
		}
		err := p.compare(ctx, req, object)
		if err == nil {
			p.noteChecked(key, req.Kind)
		}
		return err
	}})
	if err == nil {
		_, err = f.Wait(context.Background())
	}
	return err
}

func (p *pinned) wasChecked(key string, kind request.Kind) bool {
	checked, _ := p.checked.Get(versionKey(key, kind))
	return checked&(1<<kind) != 0
}

func (p *pinned) noteChecked(key string, kind request.Kind) {
	p.checked.Change(versionKey(key, kind), func(checked kinds) (kinds, bool) { return checked | 1<<kind, true })
}

// versionKey stands for the files of a version, of which key is the key of one. A key that was cut does
// not end with the kind, and stands for its own file alone.
func versionKey(key string, kind request.Kind) memo.Key {
	return memo.KeyOf(strings.TrimSuffix(key, "."+kind.String()))
}

// compare returns a *pinlog.ConflictError if an object does not have the hash in the log.
func (p *pinned) compare(ctx context.Context, req request.Request, object storage.Object) error {
	entry, err := p.find(ctx, req.ModuleVersion())
	if err != nil {
		return err
	}
	want := entry.Zip
	if req.Kind == request.Mod {
		want = entry.Mod
	}
	got := object.Info().Hash
	if got == want {
		if got, err = p.zips.hashStored(ctx, req.Kind, object); err != nil {
			return err
		}
	}
	if got != want {
		changed := &pinlog.ConflictError{Have: entry, Got: entry}
		changed.Got.Origin, changed.Got.Time = "the proxy's own disk", time.Now()
		if req.Kind == request.Mod {
			changed.Got.Mod = got
		} else {
			changed.Got.Zip = got
		}
		p.evidence.noteChanged(changed)
		return changed
	}
	return nil
}

// find returns the entry of a version. The error is errMiss if there is none.
func (p *pinned) find(ctx context.Context, mod module.Version) (pinlog.Entry, error) {
	entry, err := p.log.Find(ctx, mod)
	if errors.Is(err, fs.ErrNotExist) {
		return entry, errMiss
	}
	return entry, err
}

// moved warns if the tag of a private version is at another commit than when the version
// was pinned. It refuses no request: only a fetch shows whether the content differs, and
// stored files stay.
func (p *pinned) moved(ctx context.Context, modulePath string, now vcs.Info, log *slog.Logger) {
	if now.Origin == nil || now.Origin.Hash == "" {
		return
	}
	entry, err := p.log.Find(ctx, module.Version{Path: modulePath, Version: now.Version})
	if err != nil || entry.Origin == "" || strings.HasSuffix(entry.Origin, " "+now.Origin.Hash) {
		return
	}
	log.Warn("private tag moved; serving the pinned version", "module", modulePath, "version", now.Version,
		"first", entry.Origin, "now", now.Origin.String())
}

// pin writes an entry into the own log, or compares it with the existing one. It reports whether it
// has stored files too.
func (p *pinned) pin(ctx context.Context, log *pinlog.Log, e pinlog.Entry, files pinlog.Dependents) (entry pinlog.Entry, stored bool, err error) {
	entry, stored, err = log.PinWith(ctx, e, files)
	var changed *pinlog.ConflictError
	if errors.As(err, &changed) {
		p.evidence.noteChanged(changed)
		return entry, false, changed
	}
	return entry, stored, ownLogError(err)
}

// checkInfo checks an .info, which the log does not cover, as far as possible: that it is
// the stored one, and of the requested version. If not, the error is storage.ErrDamaged.
func checkInfo(req request.Request, object storage.Object) error {
	data, err := io.ReadAll(object)
	if err != nil {
		return err
	}
	if _, err := object.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if fmt.Sprintf("sha256:%x", sha256.Sum256(data)) != object.Info().Hash {
		return fmt.Errorf("%w: its hash does not match", storage.ErrDamaged)
	}
	if version, err := parseInfo(data); err != nil || version != req.Version {
		return fmt.Errorf("%w: the info is of version %q", storage.ErrDamaged, version)
	}
	return nil
}

// ownFrozen is an ErrFrozen of the own log. Its text is short, because it is logged for
// each refused request; the reason, and what the administrator must do, was logged once,
// when the own log was opened or frozen.
type ownFrozen struct{ err error }

func (e *ownFrozen) Error() string {
	return ErrOwnLog.Error() + ": it signs nothing new; an earlier log line and assay log check give the reason"
}

func (e *ownFrozen) Unwrap() []error { return []error{ErrOwnLog, e.err} }

// ownLogError makes an ErrFrozen or ErrBeyond an error of the own log.
func ownLogError(err error) error {
	if errors.Is(err, sumdb.ErrFrozen) {
		return &ownFrozen{err}
	}
	if errors.Is(err, sumdb.ErrBeyond) {
		return fmt.Errorf("%w: %w", ErrOwnLog, err)
	}
	return err
}
