package proxy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// An access rule names module paths, and what it is to protect is in a repository, which
// can have other paths: the one that says where it is, that of any page which names it,
// an old one. So of everything that is read from a repository it is noted under which
// path and with or without a credential (bindings), and a reader must satisfy the rules
// about each path under which the repository is known, not only about the one that was
// asked for. What is read with a credential, and is covered by no rule, is given to no
// client as soon as there is any rule.

// errProtected says that a public name leads to a repository that a rule protects.
var errProtected = errors.New("the repository is protected by a rule about private modules")

// errHidden is in the answer for what the client may not read.
var errHidden = errors.New("the client may not read it")

// verdict says whether a reader may have a module.
type verdict uint8

const (
	allowed verdict = iota
	unsure          // where the module is has to be found out first
	refused
)

func noGroup(string) bool    { return false }
func everyGroup(string) bool { return true }

// judge decides whether a reader who is in some groups may have a module. It does no I/O:
// what is held can be served or refused by it.
func (s *Server) judge(st *settings, modulePath string, private bool, in func(string) bool) verdict {
	if !st.privacy.Ruled() {
		return allowed
	}
	facts := s.bindings.Of(modulePath, !private)
	if !private {
		for _, f := range facts {
			if !s.protection(st, f.Repository).Allowed(noGroup) {
				return refused // members of the groups have another name for it
			}
		}
		return allowed
	}
	covered, mayRead := st.privacy.Read(modulePath, in)
	if !mayRead {
		return refused
	}
	result := allowed
	if len(facts) == 0 {
		result = unsure
	}
	for _, f := range facts {
		result = max(result, s.judgeFact(st, covered, f, in))
	}
	return result
}

// judgeFact decides about a repository in which a module is. covered says that there is a
// rule about the path of the module.
func (s *Server) judgeFact(st *settings, covered bool, f bindings.Fact, in func(string) bool) verdict {
	rules := s.protection(st, f.Repository)
	switch {
	case !rules.Allowed(in):
		return refused
	case covered || len(rules) > 0 || f.How == bindings.Open:
		return allowed
	case f.How == bindings.Unknown:
		return unsure
	}
	return refused
}

// protections are the rules about repositories, as far as they were asked for, under one
// set of settings.
type protections struct {
	mu    sync.RWMutex
	repos map[string]protection
}

type protection struct {
	facts int // of the repository, when the rules were looked for
	rules privacy.Rules
}

// protection returns the rules about a repository: about its own path, and about each
// path under which it is known.
func (s *Server) protection(st *settings, repository string) privacy.Rules {
	if repository == "" {
		return nil // it is not known
	}
	facts := s.bindings.At(repository)
	p := &st.protections
	p.mu.RLock()
	known, ok := p.repos[repository]
	p.mu.RUnlock()
	if ok && known.facts == len(facts) {
		return known.rules
	}
	rules := st.privacy.Rules(pathsOf(repository, facts))
	if len(facts) == 0 {
		return rules // a client can ask for many that are not known
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.repos == nil {
		p.repos = map[string]protection{}
	}
	p.repos[repository] = protection{len(facts), rules}
	return rules
}

func pathsOf(repository string, facts []bindings.Fact) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(repository) {
			return
		}
		for _, f := range facts {
			if !yield(f.Module) {
				return
			}
		}
	}
}

// ascertain finds out where a private module is, before anything is fetched for it or, if
// it is not known, served, and returns an error if the client may not have what is there.
// The repository itself is not asked, so the error does not depend on what it has.
func (s *Server) ascertain(ctx context.Context, a *answer, req request.Request) error {
	st := s.settings.Load()
	if !a.private || a.located || !st.privacy.Ruled() {
		return nil
	}
	facts := s.bindings.Of(req.Module, false)
	covered, _ := st.privacy.Read(req.Module, everyGroup)
	if a.heldOnly || st.vcs == nil {
		if a.unsure && (a.heldOnly || !covered) { // else the answer would tell whether it was fetched for others
			return s.refuse(a, req)
		}
		return nil
	}
	place, err := s.locate(ctx, a, st, req.Module, !covered && len(facts) == 0)
	if err != nil {
		return err
	}
	if !s.mayHave(a, st, req, place) {
		s.sayWhy(a, req, covered)
		return s.refuse(a, req)
	}
	a.located = true
	if a.unsure && len(facts) > 0 {
		return s.learn(ctx, a, st, req)
	}
	return nil
}

// pretend does the work of ascertain for a module that is known to be in a repository that
// the client may not read. Else the time of the refusal would tell that it is known.
func (s *Server) pretend(a *answer, st *settings, req request.Request, covered bool) {
	if a.heldOnly || st.vcs == nil {
		return
	}
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	if place, err := s.locate(ctx, a, st, req.Module, !covered); err == nil {
		s.mayHave(a, st, req, place)
	}
}

// ascertainInTime is ascertain for a client that waits for it.
func (s *Server) ascertainInTime(a *answer, req request.Request) error {
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	return s.ascertain(ctx, a, req)
}

// locate is vcs.Source.Locate in one of the places for private modules.
func (s *Server) locate(ctx context.Context, a *answer, st *settings, modulePath string, open bool) (place vcs.Place, err error) {
	key := "locate " + modulePath // no path of the protocol has a blank in it
	if err := s.absent.find(key, true); err != nil {
		return vcs.Place{}, err
	}
	begin := time.Now()
	err = s.inPrivatePlace(ctx, a, modulePath, func(ctx context.Context) (err error) {
		place, err = st.vcs.Locate(ctx, modulePath, vcs.Private, open)
		return err
	})
	s.absent.note(key, err, true, begin)
	return place, answerTime(ctx, err)
}

// inPrivatePlace does work about a module, for which the client of a waits, in one of the
// places for private modules.
func (s *Server) inPrivatePlace(ctx context.Context, a *answer, modulePath string, do func(context.Context) error) error {
	claim, err := s.fills.private.Claim(claimOf(s.client(a), request.Request{Module: modulePath}))
	if err != nil {
		return busy(err)
	}
	return s.inPlace(ctx, claim, do)
}

// learn asks the repository of a private module that no rule covers, and of which is held
// what an older version of this program has fetched, perhaps with a credential that is
// not configured any more. If it answers without one, what is held is open.
func (s *Server) learn(ctx context.Context, a *answer, st *settings, req request.Request) error {
	err := s.inPrivatePlace(ctx, a, req.Module, func(ctx context.Context) error {
		versions, err := st.vcs.Versions(ctx, req.Module, vcs.Private)
		if err != nil {
			return err
		}
		return s.noteRead(ctx, req.Module, vcs.Private, versions.Place)
	})
	if err != nil {
		return answerTime(ctx, err)
	}
	if err := s.admit(a, req); err != nil {
		return err
	}
	if a.unsure { // it is held from another repository than the one that has it now
		return s.refuse(a, req)
	}
	return nil
}

// mayHave reports whether the client may have what is at a place.
func (s *Server) mayHave(a *answer, st *settings, req request.Request, place vcs.Place) bool {
	covered, _ := st.privacy.Read(req.Module, everyGroup)
	f := bindings.Fact{Repository: place.Repository, Module: req.Module, How: howRead(place)}
	if s.judgeFact(st, covered, f, noGroup) == allowed {
		return true
	}
	return s.judgeFact(st, covered, f, inGroup(s.identify(a))) == allowed
}

func howRead(place vcs.Place) bindings.How {
	if place.Credential {
		return bindings.Credential
	}
	return bindings.Open
}

// sayWhy notes in the log why a client may not read a module that the rules about its own
// path let it read: the answer does not say it, and the rules do not show it.
func (s *Server) sayWhy(a *answer, req request.Request, covered bool) {
	if covered {
		s.log.Info("request refused by an access rule of another path of the same repository", "request", a.Header().Get("X-Request-Id"), "module", req.Module)
	}
}

// refuse is the answer for a client that may not have the module, which is noted.
func (s *Server) refuse(a *answer, req request.Request) error {
	s.noteUnread(a.r, s.identify(a), req.Module)
	return hidden(a.path)
}

// veil returns err, or hidden if it is about a repository that the client may not read:
// also that it does not have something is not for everyone.
func (s *Server) veil(a *answer, req request.Request, err error) error {
	var repo *vcs.Error
	st := s.settings.Load()
	switch {
	case errors.Is(err, errHidden):
		return err
	case errors.Is(err, errProtected):
		return s.refuse(a, req)
	case a.private && st.privacy.Ruled() && errors.As(err, &repo) && repo.Place != vcs.Place{} && !s.mayHave(a, st, req, repo.Place):
		return s.refuse(a, req)
	}
	return err
}

// mayGoDirect returns errProtected if a public name leads to a repository that a rule
// protects, before the repository is asked for anything.
func (s *Server) mayGoDirect(ctx context.Context, st *settings, modulePath string) error {
	if !st.privacy.Ruled() {
		return nil
	}
	place, err := st.vcs.Locate(ctx, modulePath, vcs.Public, true)
	if err == nil && !s.protection(st, place.Repository).Allowed(noGroup) {
		return fmt.Errorf("%s: %w", modulePath, errProtected)
	}
	return err
}

// noteRead notes that a module was read, before anything of it is stored or served.
func (s *Server) noteRead(ctx context.Context, modulePath string, reach vcs.Reach, place vcs.Place) error {
	facts := []bindings.Fact{{Repository: place.Repository, Module: modulePath, Public: reach == vcs.Public, How: howRead(place)}}
	if place.Redirected != "" && place.Redirected != place.Repository {
		facts = append(facts, bindings.Fact{Repository: place.Redirected, Module: modulePath, Public: reach == vcs.Public, How: howRead(place)})
	}
	if place.Declared != "" && place.Declared != modulePath {
		facts = append(facts, bindings.Fact{Repository: place.Repository, Module: place.Declared, How: bindings.Declared})
	}
	st := s.settings.Load()
	known, before := len(s.bindings.At(place.Repository)), s.protection(st, place.Repository)
	for _, f := range facts {
		if err := s.bindings.Note(context.WithoutCancel(ctx), f); err != nil {
			return s.unnoted(modulePath, place, err)
		}
	}
	if now := s.protection(st, place.Repository); known > 0 && len(now) > len(before) {
		s.log.Warn("another access rule now protects a repository: clients must satisfy it to read any of its modules", "repository", place.Repository, "module", modulePath, "declared", place.Declared)
	}
	return nil
}

// unnoted returns the error for a module about which err says that it was not noted. That
// it is in this repository is not for every client (veil).
func (s *Server) unnoted(modulePath string, place vcs.Place, err error) error {
	var full *bindings.LimitError
	if !errors.As(err, &full) {
		return err
	}
	if full.First {
		s.log.Warn("too many module paths for one repository or host; new ones are refused, known ones are still served", "of", full.Of, "limit", full.Limit, "module", modulePath)
	}
	return &vcs.Error{Module: modulePath, Place: place, Err: &failure{status: http.StatusForbidden, noStore: true,
		what: "too many module paths: " + modulePath + " is refused",
		why:  "the proxy records a limited number for each repository and host; known ones are still served",
		next: "contact this proxy's administrator: a page with wildcard paths may lead to the repository", err: full}}
}

// closed reports whether there is a private module that no client may read.
func (s *Server) closed(st *settings) bool {
	for modulePath := range s.bindings.Private() {
		if s.judge(st, modulePath, true, everyGroup) != allowed {
			return true
		}
	}
	return false
}

// loadBindings reads what is known about repositories, and adds what only our own log
// knows.
func (s *Server) loadBindings(ctx context.Context) (err error) {
	if s.bindings, err = bindings.Load(ctx, s.store); err != nil {
		return err
	}
	log := s.config.Log
	if log == nil || log.Size() == s.bindings.Log() {
		return nil
	}
	known := s.bindings.Log()
	if log.Size() < known {
		known = 0 // it is another log, or an older one
	}
	return s.bindings.Learn(ctx, factsOf(log, known), log.Size())
}

// saveBindings notes that there are facts for all that is in our own log, so that the
// next start need not read it.
func (s *Server) saveBindings(ctx context.Context) {
	log := s.config.Log
	if log == nil {
		return
	}
	if err := s.bindings.Learn(ctx, func(func(bindings.Fact, error) bool) {}, log.Size()); err != nil {
		s.log.Warn("the next start must read the whole private checksum log", "err", err)
	}
}

// factsOf yields what our own log shows from its entry known on: each version has where
// it came from.
func factsOf(log *pinlog.Log, known int64) iter.Seq2[bindings.Fact, error] {
	return func(yield func(bindings.Fact, error) bool) {
		for e, err := range log.Entries("") {
			if err == nil && (e.Public != nil || e.ID < known) {
				continue
			}
			url, _, _ := strings.Cut(e.Origin, " ") // as vcs.Origin.String has it
			if !yield(bindings.Fact{Repository: vcs.CanonicalRepository(url), Module: e.Module.Path}, err) {
				return
			}
		}
	}
}
