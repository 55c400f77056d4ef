// Package gate is the only way from a module to the upstreams, repositories and databases
// that may get its name, and to the store that may get its content.
//
// Work runs for minutes, and a reload can make its module private, or public, meanwhile.
// So no work holds an upstream, a repository, a database or the store for long. It asks
// its Gate right before it sends the name of a module or stores an object of it. The Gate
// returns the one of the settings in force, or ErrReloaded if these give the module to
// the other origin.
package gate

import (
	"context"
	"errors"

	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Errors of a Gate.
var (
	// ErrReloaded says that work began under settings that are no longer in force.
	ErrReloaded = errors.New("the settings changed during the request")

	// ErrNoVCS says that version control is needed, but off.
	ErrNoVCS = errors.New("fetching from version control is disabled")
)

// Settings are the settings that a reload changes.
type Settings struct {
	upstream *fetch.Chain
	policy   *privacy.Policy
	vcs      *vcs.Source // nil: none
}

// NewSettings makes settings. They are in force when the function of the gates returns
// them.
func NewSettings(upstream *fetch.Chain, policy *privacy.Policy, vcs *vcs.Source) *Settings {
	return &Settings{upstream, policy, vcs}
}

// Policy returns the policy: which modules are private, and which groups may read them.
func (s *Settings) Policy() *privacy.Policy { return s.policy }

// Spared reports whether an upstream has asked for fewer requests a moment ago, see fetch.Chain.Spared.
func (s *Settings) Spared() bool { return s.upstream.Spared() }

// Offline reports whether there is no upstream at all.
func (s *Settings) Offline() bool { return s.upstream.Offline() }

// Direct reports whether the upstream list ends with direct.
func (s *Settings) Direct() bool { return s.upstream.Direct() }

// One reports whether the upstream list has one upstream, and perhaps direct.
func (s *Settings) One() bool { return s.upstream.One() }

// Upstreams returns the upstream list, without credentials.
func (s *Settings) Upstreams() string { return s.upstream.String() }

// UpstreamSetting returns a text that identifies the upstream list, see
// fetch.Chain.Setting.
func (s *Settings) UpstreamSetting() string { return s.upstream.Setting() }

// Unreachable reports whether no upstream is reachable now. Its requests have no names of
// modules.
func (s *Settings) Unreachable(ctx context.Context) bool { return s.upstream.Unreachable(ctx) }

// VCS reports whether modules are fetched from version control.
func (s *Settings) VCS() bool { return s.vcs != nil }

// Repository returns the repository in which a module was last found, "" if it is not
// known.
func (s *Settings) Repository(modulePath string) string {
	if s.vcs == nil {
		return ""
	}
	return s.vcs.Repository(modulePath)
}

// Anew makes later work in version control join no earlier work.
func (s *Settings) Anew() {
	if s.vcs != nil {
		s.vcs.Changed()
	}
}

// Outside has what the gates return besides the settings: the store, the databases and
// the own log.
type Outside struct {
	store     storage.Store
	databases []*sumdb.Mirror
	log       *pinlog.Log // the own log, nil: there is none
}

// NewOutside makes an Outside. Only a Gate has access to its fields.
func NewOutside(store storage.Store, databases []*sumdb.Mirror, log *pinlog.Log) Outside {
	return Outside{store, databases, log}
}

// Gate connects one origin with the outside.
type Gate struct {
	now     func() *Settings
	owns    func(p *privacy.Policy, modulePath string) bool
	outward func(modulePath string) string // see Outward; of a module that it owns
	outside Outside
}

// Public returns the Gate for public modules. The function returns the settings in force.
func Public(now func() *Settings, outside Outside) *Gate {
	owns := func(p *privacy.Policy, modulePath string) bool { return !isPrivate(p, modulePath) }
	return &Gate{now, owns, func(modulePath string) string { return modulePath }, outside}
}

// Private returns the Gate for private modules. The function returns the settings in force.
func Private(now func() *Settings, outside Outside) *Gate {
	return &Gate{now, isPrivate, func(string) string { return "" }, outside}
}

func isPrivate(p *privacy.Policy, modulePath string) bool {
	_, private := p.Private(modulePath)
	return private
}

// Check returns the settings in force, or ErrReloaded if they give the module to the other
// origin.
func (g *Gate) Check(modulePath string) (*Settings, error) {
	now := g.now()
	if !g.owns(now.policy, modulePath) {
		return nil, ErrReloaded
	}
	return now, nil
}

// Outward returns the path of a module if it may leave this program by the settings in force, and "" if the
// module is private.
func (g *Gate) Outward(modulePath string) string {
	if _, err := g.Check(modulePath); err != nil {
		return ""
	}
	return g.outward(modulePath)
}

// Upstream returns the upstreams, and the context for one fetch from them that sends the
// name of the module.
func (g *Gate) Upstream(ctx context.Context, modulePath string) (context.Context, *fetch.Chain, error) {
	now, err := g.Check(modulePath)
	if err != nil {
		return nil, nil, err
	}
	return fetch.WithModule(ctx, modulePath), now.upstream, nil
}

// Repository returns the vcs.Source, for one request about the module.
func (g *Gate) Repository(modulePath string) (*vcs.Source, error) {
	now, err := g.Check(modulePath)
	if err != nil {
		return nil, err
	}
	if now.vcs == nil {
		return nil, ErrNoVCS
	}
	return now.vcs, nil
}

// Database returns the checksum database with the name, and the context for one lookup of
// the module.
func (g *Gate) Database(ctx context.Context, name, modulePath string) (context.Context, *sumdb.Mirror, error) {
	if _, err := g.Check(modulePath); err != nil {
		return nil, nil, err
	}
	for _, db := range g.outside.databases {
		if db.Name() == name {
			return fetch.WithModule(ctx, modulePath), db, nil
		}
	}
	return nil, nil, errors.New("no database " + name)
}

// Log returns the own log, to pin one version of the module.
func (g *Gate) Log(modulePath string) (*pinlog.Log, error) {
	if _, err := g.Check(modulePath); err != nil {
		return nil, err
	}
	return g.outside.log, nil
}

// Store returns the store, to store one object of the module.
func (g *Gate) Store(modulePath string) (storage.Store, error) {
	if _, err := g.Check(modulePath); err != nil {
		return nil, err
	}
	return g.outside.store, nil
}
