// Package gate is the only way from a module to what its name could be sent to, and to
// where its content is stored.
//
// Work runs for minutes, and a reload can make its module private, or public, meanwhile.
// So nothing holds an upstream, a repository, a database or the store for long: it asks
// its Gate right before it sends the name of a module or stores something of it, and the Gate
// answers with what the settings in force have, or with ErrReloaded if these give the
// module to the other origin.
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
	// ErrReloaded says that work was begun under settings that are no longer in force.
	ErrReloaded = errors.New("the settings changed during the request")

	// ErrNoVCS says that version control is needed and off.
	ErrNoVCS = errors.New("fetching from version control is disabled")
)

// Settings are what a reload changes.
type Settings struct {
	upstream *fetch.Chain
	policy   *privacy.Policy
	vcs      *vcs.Source // nil: none
}

// NewSettings makes settings. They are in force when the function that the gates have
// returns them.
func NewSettings(upstream *fetch.Chain, policy *privacy.Policy, vcs *vcs.Source) *Settings {
	return &Settings{upstream, policy, vcs}
}

// Policy returns which modules are private, and who may read them.
func (s *Settings) Policy() *privacy.Policy { return s.policy }

// Offline reports whether there is no upstream at all.
func (s *Settings) Offline() bool { return s.upstream.Offline() }

// Direct reports whether the upstream list ends with direct.
func (s *Settings) Direct() bool { return s.upstream.Direct() }

// Upstreams returns the upstream list, without credentials.
func (s *Settings) Upstreams() string { return s.upstream.String() }

// UpstreamSetting returns what tells the upstream list from others, see fetch.Chain.Setting.
func (s *Settings) UpstreamSetting() string { return s.upstream.Setting() }

// Unreachable reports whether no upstream can be asked at this moment. It asks for
// nothing that has the name of a module in it.
func (s *Settings) Unreachable(ctx context.Context) bool { return s.upstream.Unreachable(ctx) }

// VCS reports whether modules are fetched from version control.
func (s *Settings) VCS() bool { return s.vcs != nil }

// Repository returns in which repository a module was found last, "" if that is not known.
func (s *Settings) Repository(modulePath string) string {
	if s.vcs == nil {
		return ""
	}
	return s.vcs.Repository(modulePath)
}

// Anew makes what comes from version control after this join nothing that was begun before.
func (s *Settings) Anew() {
	if s.vcs != nil {
		s.vcs.Changed()
	}
}

// Outside is what the gates lead to, beside what the settings have.
type Outside struct {
	store     storage.Store
	databases []*sumdb.Mirror
	log       *pinlog.Log // our own, nil: none
}

// NewOutside makes an Outside. Nothing but a Gate can get at what is in it.
func NewOutside(store storage.Store, databases []*sumdb.Mirror, log *pinlog.Log) Outside {
	return Outside{store, databases, log}
}

// Gate leads to the outside from one origin.
type Gate struct {
	now     func() *Settings
	owns    func(p *privacy.Policy, modulePath string) bool
	outside Outside
}

// Public returns the Gate for public modules. The function returns the settings in force.
func Public(now func() *Settings, outside Outside) *Gate {
	return &Gate{now, func(p *privacy.Policy, modulePath string) bool { return !isPrivate(p, modulePath) }, outside}
}

// Private returns the Gate for private modules. The function returns the settings in force.
func Private(now func() *Settings, outside Outside) *Gate {
	return &Gate{now, isPrivate, outside}
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

// Upstream returns the upstreams, for one request for the module.
func (g *Gate) Upstream(modulePath string) (*fetch.Chain, error) {
	now, err := g.Check(modulePath)
	if err != nil {
		return nil, err
	}
	return now.upstream, nil
}

// Repository returns what fetches from version control, for one request for the module.
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

// Database returns the checksum database with the name, for one lookup of the module.
func (g *Gate) Database(name, modulePath string) (*sumdb.Mirror, error) {
	if _, err := g.Check(modulePath); err != nil {
		return nil, err
	}
	for _, db := range g.outside.databases {
		if db.Name() == name {
			return db, nil
		}
	}
	return nil, errors.New("no database " + name)
}

// Log returns our own log, to pin one version of the module.
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
