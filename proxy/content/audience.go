package content

import (
	"context"
	"errors"
	"time"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// audience decides which clients may read the modules of an origin.
type audience interface {
	// admit returns an error, usually ErrHidden, if the client may not read the module.
	// It does no I/O except to hide what it knows (pretend). It notes in q if the
	// repository of the module must be found first.
	admit(ctx context.Context, q *Ask) error

	// ascertain finds the repository of a module before anything is fetched for it, and,
	// if the repository is not known, before anything is served. It returns an error if
	// the client may not read the repository.
	ascertain(ctx context.Context, q *Ask) error

	// veil returns err, or ErrHidden if err is about a repository that the client may not
	// read: even an absence must stay hidden.
	veil(q *Ask, err error) error
}

// everyone is the audience of public modules.
type everyone struct {
	rules    *rules
	verified bool // there is a checksum database
}

// toolchain is the module of Go toolchains.
const toolchain = "golang.org/toolchain"

func (e *everyone) admit(_ context.Context, q *Ask) error {
	q.unsure = false
	if e.rules.judgePublic(q.Req.Module) == refused {
		return ErrHidden
	}
	if q.Req.Module == toolchain && !e.verified && q.Req.Kind != request.List && q.Req.Kind != request.Latest {
		return ErrNoDatabase
	}
	return nil
}

func (*everyone) ascertain(context.Context, *Ask) error { return nil }

func (*everyone) veil(_ *Ask, err error) error {
	if errors.Is(err, errProtected) {
		return ErrHidden
	}
	return err
}

// members are the audience of private modules: the groups that the rules name.
type members struct {
	rules    *rules
	settings *gate.Settings
	gate     *gate.Gate
	parts    *parts
	absent   *absent
	pinned   bool // there is an own log
}

func (m *members) admit(ctx context.Context, q *Ask) error {
	modulePath := q.Req.Module
	in, v := noGroup, refused
	if !q.Client.HasCredential() { // a credential may be a token that is valid for other modules only
		v = m.rules.judgePrivate(modulePath, noGroup)
	}
	if v == refused {
		if !q.Client.Covers(modulePath) {
			return ErrHidden
		}
		in = q.Client.In
		v = m.rules.judgePrivate(modulePath, in)
	}
	if v == refused {
		if covered, mayRead := m.rules.policy.MayRead(modulePath, in); mayRead { // the rules about its repository refuse it
			m.pretend(ctx, q, covered)
			m.sayWhy(q, covered)
		}
		return ErrHidden
	}
	q.unsure = v == unsure
	if !m.pinned {
		return m.notFetched(modulePath)
	}
	return nil
}

// notFetched is the error for a private module that is not held, while it cannot be
// fetched.
func (m *members) notFetched(modulePath string) error {
	pattern, _ := m.rules.policy.Private(modulePath)
	return &NotFetchedError{modulePath, pattern}
}

// admitByPath returns ErrHidden if the rules about the module's path alone forbid the
// client to read it. It is for responses that do not depend on the module's content.
func (m *members) admitByPath(q *Ask) error {
	p := m.rules.policy
	if !q.Client.HasCredential() && !p.Restricted(q.Req.Module) {
		return nil
	}
	if !q.Client.Covers(q.Req.Module) || !p.Allowed(q.Req.Module, q.Client.In) {
		return ErrHidden
	}
	return nil
}

// ascertain does not ask the repository itself, so its error does not depend on the
// content of the repository.
func (m *members) ascertain(ctx context.Context, q *Ask) error {
	if q.located || !m.rules.policy.HasRules() {
		return nil
	}
	if err := m.renew(ctx, q); err != nil {
		return err
	}
	facts := m.rules.bindings.Private(q.Req.Module)
	covered, _ := m.rules.policy.MayRead(q.Req.Module, everyGroup)
	if q.HeldOnly || !m.settings.VCS() {
		if q.unsure && (q.HeldOnly || !covered) { // otherwise the response would tell whether other clients fetched it
			return ErrHidden
		}
		return nil
	}
	place, err := m.locate(ctx, q, !covered && len(facts) == 0)
	if err != nil {
		return err
	}
	if !m.mayHave(q, place) {
		m.sayWhy(q, covered)
		return ErrHidden
	}
	q.located = true
	if q.unsure && len(facts) > 0 {
		return m.learn(ctx, q)
	}
	return nil
}

// renew decides again with the facts that other replicas have noted.
func (m *members) renew(ctx context.Context, q *Ask) error {
	facts := m.parts.replicas.facts
	if !facts.shared {
		return nil
	}
	if err := facts.renew(ctx); err != nil {
		return answerTime(ctx, err)
	}
	return m.admit(ctx, q)
}

// pretend does the work of ascertain for a module whose known repository the client may
// not read. Otherwise the duration of the refusal would tell that the module is known.
func (m *members) pretend(ctx context.Context, q *Ask, covered bool) {
	ctx, cancel := patient(ctx, m.parts.options.times.Answer)
	defer cancel()
	if m.parts.replicas.facts.renew(ctx) != nil || q.HeldOnly || !m.settings.VCS() {
		return
	}
	if place, err := m.locate(ctx, q, !covered); err == nil {
		m.mayHave(q, place)
	}
}

// locate calls vcs.Source.Locate in one of the places for private modules.
func (m *members) locate(ctx context.Context, q *Ask, open bool) (place vcs.Place, err error) {
	modulePath := q.Req.Module
	key := "locate " + modulePath // no path of the protocol has a space
	if err := m.absent.find(ctx, key); err != nil {
		return vcs.Place{}, err
	}
	begin := time.Now()
	err = m.inPlace(ctx, q, func(ctx context.Context) error {
		source, err := m.gate.Repository(modulePath)
		if err != nil {
			return err
		}
		place, err = source.Locate(ctx, modulePath, vcs.Private, open)
		return said(err)
	})
	m.absent.note(key, err, begin)
	return place, answerTime(ctx, err)
}

// inPlace calls do, which is about a module and for which the client waits, in one of the
// places for private modules.
func (m *members) inPlace(ctx context.Context, q *Ask, do func(context.Context) error) error {
	claim, err := m.parts.rooms.private.Claim(claimOf(q.Client.Key(), request.Request{Module: q.Req.Module}))
	if err != nil {
		return err
	}
	return m.parts.scope.InPlace(ctx, claim, do)
}

// learn asks the repository of a private module that no rule covers, and whose held
// versions an older version of this program fetched, perhaps with a credential that is no
// longer configured. If the repository answers without a credential, these versions are
// open.
func (m *members) learn(ctx context.Context, q *Ask) error {
	modulePath := q.Req.Module
	err := m.inPlace(ctx, q, func(ctx context.Context) error {
		source, err := m.gate.Repository(modulePath)
		if err != nil {
			return err
		}
		versions, err := source.Versions(ctx, modulePath, vcs.Private)
		if err != nil {
			return said(err)
		}
		return m.rules.noteRead(ctx, bindings.Fact{Module: modulePath}, versions.Place)
	})
	if err != nil {
		return answerTime(ctx, err)
	}
	if err := m.admit(ctx, q); err != nil {
		return err
	}
	if q.unsure { // the held versions are from another repository than the current one
		return ErrHidden
	}
	return nil
}

// mayHave reports whether the client may read the repository at a place.
func (m *members) mayHave(q *Ask, place vcs.Place) bool {
	covered, _ := m.rules.policy.MayRead(q.Req.Module, everyGroup)
	f := bindings.Fact{Repository: place.Repository, Module: q.Req.Module, How: howRead(place)}
	if m.rules.judgeFact(covered, f, noGroup) == allowed {
		return true
	}
	return m.rules.judgeFact(covered, f, q.Client.In) == allowed
}

// sayWhy logs why a client may not read a module although the rules about its own path
// allow it: neither the response nor the rules show the reason.
func (m *members) sayWhy(q *Ask, covered bool) {
	if covered {
		m.parts.options.log.Info("request refused by an access rule of another path of the same repository", "request", q.Client.Request(), "module", q.Req.Module)
	}
}

func (m *members) veil(q *Ask, err error) error {
	var repo *vcs.Error
	switch {
	case errors.Is(err, ErrHidden):
		return err
	case errors.Is(err, errProtected):
		return ErrHidden
	case m.rules.policy.HasRules() && errors.As(err, &repo) && repo.Place != vcs.Place{} && !m.mayHave(q, repo.Place):
		return ErrHidden
	}
	return err
}
