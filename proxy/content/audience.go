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

// audience decides which clients may have the modules of an origin.
type audience interface {
	// admit returns an error, ErrHidden mostly, if the client may not have the module. It
	// does no I/O but for pretence. It notes in q if where the module is has to be found
	// out first.
	admit(ctx context.Context, q *Ask) error

	// ascertain finds out where a module is, before anything is fetched for it or, if that
	// is not known, served, and returns an error if the client may not have what is there.
	ascertain(ctx context.Context, q *Ask) error

	// veil returns err, or ErrHidden if it is about a repository that the client may not
	// read: also that it does not have something is not for everyone.
	veil(q *Ask, err error) error

	// admitByPath returns ErrHidden if by the rules about its path alone the client may not
	// have the module: for an answer that does not depend on what it is.
	admitByPath(q *Ask) error
}

// everyone is the audience of public modules.
type everyone struct {
	rules    *rules
	verified bool // by a checksum database
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

func (*everyone) admitByPath(*Ask) error { return nil }

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
	pinned   bool // there is a log of our own
}

func (m *members) admit(ctx context.Context, q *Ask) error {
	modulePath := q.Req.Module
	in, v := noGroup, m.rules.judgePrivate(modulePath, noGroup)
	// With a credential, it may be a token that is good for other modules only.
	if v == refused || q.Client.HasCredential() {
		if !q.Client.Covers(modulePath) {
			return ErrHidden
		}
		in = q.Client.In
		v = m.rules.judgePrivate(modulePath, in)
	}
	if v == refused {
		if covered, mayRead := m.rules.policy.Read(modulePath, in); mayRead { // it is its repository that is protected
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

// notFetched is the error for a private module that is not held and cannot be fetched.
func (m *members) notFetched(modulePath string) error {
	pattern, _ := m.rules.policy.Private(modulePath)
	return &NotFetchedError{modulePath, pattern}
}

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

// ascertain does not ask the repository itself, so its error does not depend on what that
// has.
func (m *members) ascertain(ctx context.Context, q *Ask) error {
	if q.located || !m.rules.policy.Ruled() {
		return nil
	}
	facts := m.rules.bindings.Private(q.Req.Module)
	covered, _ := m.rules.policy.Read(q.Req.Module, everyGroup)
	if q.HeldOnly || !m.settings.VCS() {
		if q.unsure && (q.HeldOnly || !covered) { // else the answer would tell whether it was fetched for others
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

// pretend does the work of ascertain for a module that is known to be in a repository that
// the client may not read. Else the time of the refusal would tell that it is known.
func (m *members) pretend(ctx context.Context, q *Ask, covered bool) {
	if q.HeldOnly || !m.settings.VCS() {
		return
	}
	ctx, cancel := patient(ctx, m.parts.options.times.Answer)
	defer cancel()
	if place, err := m.locate(ctx, q, !covered); err == nil {
		m.mayHave(q, place)
	}
}

// locate is vcs.Source.Locate in one of the places for private modules.
func (m *members) locate(ctx context.Context, q *Ask, open bool) (place vcs.Place, err error) {
	modulePath := q.Req.Module
	key := "locate " + modulePath // no path of the protocol has a blank in it
	if err := m.absent.find(key); err != nil {
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

// inPlace does work about a module, for which the client waits, in one of the places for
// private modules.
func (m *members) inPlace(ctx context.Context, q *Ask, do func(context.Context) error) error {
	claim, err := m.parts.rooms.private.Claim(claimOf(q.Client.Key(), request.Request{Module: q.Req.Module}))
	if err != nil {
		return err
	}
	return m.parts.scope.InPlace(ctx, claim, do)
}

// learn asks the repository of a private module that no rule covers, and of which is held
// what an older version of this program has fetched, perhaps with a credential that is
// not configured any more. If it answers without one, what is held is open.
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
	if q.unsure { // it is held from another repository than the one that has it now
		return ErrHidden
	}
	return nil
}

// mayHave reports whether the client may have what is at a place.
func (m *members) mayHave(q *Ask, place vcs.Place) bool {
	covered, _ := m.rules.policy.Read(q.Req.Module, everyGroup)
	f := bindings.Fact{Repository: place.Repository, Module: q.Req.Module, How: howRead(place)}
	if m.rules.judgeFact(covered, f, noGroup) == allowed {
		return true
	}
	return m.rules.judgeFact(covered, f, q.Client.In) == allowed
}

// sayWhy notes in the log why a client may not read a module that the rules about its own
// path let it read: the answer does not say it, and the rules do not show it.
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
	case m.rules.policy.Ruled() && errors.As(err, &repo) && repo.Place != vcs.Place{} && !m.mayHave(q, repo.Place):
		return ErrHidden
	}
	return err
}
