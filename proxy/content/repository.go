package content

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// repository gets modules from their repositories: private ones, and public ones for
// which the upstream list says direct.
type repository struct {
	parts    *parts
	settings *gate.Settings
	gate     *gate.Gate
	proof    proof
	shelf    *shelf
	answers  *answers
	rules    func() *rules // in force
	versions *flight.Group[time.Time]

	reach   vcs.Reach
	fact    bindings.Fact                         // how reads are noted
	mayRead func(rules *rules, p vcs.Place) error // nil: every place may be read
	fresh   bool                                  // an absence from earlier work is not final, see fill
}

func (r *repository) reachable() bool { return r.settings.VCS() }

func (r *repository) spared() bool { return false }

func (r *repository) unheld(req request.Request) error {
	pattern, _ := r.settings.Policy().Private(req.Module)
	return &NotFetchedError{req.Module, pattern}
}

func (r *repository) pushed(modulePath string) push {
	return r.parts.replicas.pushes.of(r.settings.Repository(modulePath))
}

func (r *repository) served(request.Request, time.Time) {}

func (r *repository) bridge(_ context.Context, _ *Ask, _ time.Time, _ Result, err error) error {
	return err
}

// fill fetches a version with all three files at once, because the go command returns
// them together. Fills of the other files share this work. If shared work began before f
// and ends with an absence, fill does it once more, see fills.joinFresh.
func (r *repository) fill(ctx context.Context, f *fill) error {
	begun, err := r.share(ctx, f)
	if r.fresh && begun.Before(f.begun) && IsAbsence(err) {
		_, err = r.share(ctx, f)
	}
	return err
}

// share fetches a version, or waits for a fill that does, and returns when the fetch
// began.
func (r *repository) share(ctx context.Context, f *fill) (begun time.Time, err error) {
	of := f.req.ModuleVersion()
	site := r.parts.options.site(f.claim.Client())
	shared, _, err := r.versions.Join(places.For{}, flight.Work[time.Time]{Key: of.String(), Limit: zipFillTime, Cause: spans.CauseOf(ctx), Do: func(ctx context.Context, _ *flight.Flight[time.Time]) error {
		return r.parts.replicas.leases.once(ctx, r.turn(of), func(ctx context.Context) error {
			source, err := r.source(ctx, of.Path)
			if err != nil {
				return err
			}
			ctx = memory.WithOwner(vcs.WithClient(ctx, site), site)
			return r.download(ctx, source, f.req)
		})
	}})
	if err != nil {
		return time.Now(), err
	}
	_, err = shared.Wait(ctx)
	return shared.Begun, err
}

// A client cannot follow a version that is cloned, so to wait for another replica is as good as to clone it, too;
// it is ahead. For a public version the wait is shorter, because the place of its fill is for objects of upstreams.
const (
	versionPatience       = zipFillTime / 4
	publicVersionPatience = 10 * time.Second
)

// turn is the turn of a version among the replicas.
func (r *repository) turn(of module.Version) turn {
	t := turn{key: r.answers.prefix + "version " + of.String(), patience: versionPatience, found: func(ctx context.Context) (bool, error) { return r.stored(ctx, of) }}
	if r.fact.Public {
		t.patience = publicVersionPatience
	}
	return t
}

// stored reports whether another replica has stored all files of a version. Without others it is false: then there
// is a file that is not stored.
func (r *repository) stored(ctx context.Context, of module.Version) (bool, error) {
	if r.parts.replicas.leases.alone {
		return false, nil
	}
	for _, kind := range []request.Kind{request.Zip, request.Mod, request.Info} {
		req := request.Request{Kind: kind, Module: of.Path, Version: of.Version}
		object, err := r.shelf.open(ctx, nil, req, req.Path())
		if errors.Is(err, errMiss) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		_ = object.Close() // it was only opened
	}
	return true, nil
}

// download fetches and stores a version. An error of storing it is no statement of the
// repository.
func (r *repository) download(ctx context.Context, source *vcs.Source, req request.Request) error {
	var ours error
	err := source.Download(ctx, req.ModuleVersion(), r.reach, func(files vcs.Files) error {
		ours = r.keep(ctx, req, files)
		return ours
	})
	if ours != nil {
		return err
	}
	return said(err)
}

// source returns the vcs.Source for a module, after it has checked that the repository
// may be read.
func (r *repository) source(ctx context.Context, modulePath string) (*vcs.Source, error) {
	source, err := r.gate.Repository(modulePath)
	if err != nil || r.mayRead == nil {
		return source, err
	}
	rules := r.rules()
	if !rules.policy.HasRules() {
		return source, nil
	}
	if err := r.parts.replicas.facts.renew(ctx); err != nil {
		return nil, err
	}
	place, err := source.Locate(ctx, modulePath, r.reach, true)
	if err != nil {
		return nil, said(err)
	}
	if err := r.mayRead(rules, place); err != nil {
		return nil, err
	}
	return r.gate.Repository(modulePath)
}

// keep proves and stores the files of a version.
func (r *repository) keep(ctx context.Context, req request.Request, files vcs.Files) error {
	v, err := openVersion(ctx, req.ModuleVersion(), files, r.parts.zips)
	if err != nil {
		return err
	}
	defer v.zip.Close()
	// Before the version is pinned: the next start learns all entries of the own log,
	// without a limit.
	if err := r.noteRead(ctx, req.Module, files.Place); err != nil {
		return err
	}
	p, err := r.proof.prove(ctx, v)
	if err != nil {
		return err
	}
	if r.mayRead != nil { // the module is public
		store, err := r.gate.Store(req.Module)
		if err == nil {
			err = noteDirect(ctx, store, v.Version) // before it is stored: from then on it could be evicted
		}
		if err != nil {
			return err
		}
	}
	return r.shelf.putVersion(ctx, v, p)
}

// noteRead notes that a module was read.
func (r *repository) noteRead(ctx context.Context, modulePath string, place vcs.Place) error {
	fact := r.fact
	fact.Module = modulePath
	return r.rules().noteRead(ctx, fact, place)
}

// ask gets an answer from version control. The answer for a list has the latest version
// too; both are stored.
func (r *repository) ask(ctx context.Context, req request.Request) (*Answer, error) {
	source, err := r.source(ctx, req.Module)
	if err != nil {
		return nil, err
	}
	begin := r.answers.asks()
	if req.Kind == request.Info {
		info, err := source.Query(ctx, req.Module, req.Version, r.reach)
		if err != nil {
			return nil, said(err)
		}
		if err := r.noteRead(ctx, req.Module, info.Place); err != nil {
			return nil, err
		}
		r.proof.moved(ctx, req.Module, info)
		return r.answers.keepInfo(ctx, req, begin, info)
	}
	versions, err := source.Versions(ctx, req.Module, r.reach)
	if err != nil {
		return nil, said(err)
	}
	if err := r.noteRead(ctx, req.Module, versions.Place); err != nil {
		return nil, err
	}
	r.proof.moved(ctx, req.Module, versions.Latest)
	list := r.answers.keep(ctx, request.Request{Kind: request.List, Module: req.Module}, &Answer{Versions: versionsOf(versions.Tagged), fetched: begin.at, push: begin.push})
	latest, err := (*Answer)(nil), said(versions.NoLatest)
	if err == nil {
		latest, err = r.answers.keepInfo(ctx, request.Request{Kind: request.Latest, Module: req.Module}, begin, versions.Latest)
	}
	if req.Kind == request.List {
		return list, nil
	}
	return latest, err
}

// unprotected returns errProtected if a rule protects the repository at a place: a public
// name must not lead there.
func unprotected(rules *rules, p vcs.Place) error {
	if !rules.protection(p.Repository).Allowed(noGroup) {
		return fmt.Errorf("a public name leads to it: %w", errProtected)
	}
	return nil
}
