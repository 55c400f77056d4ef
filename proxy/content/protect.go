package content

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// An access rule names module paths, but it must protect a repository, which can have
// other paths: that of its location, that of any page which names it, an old one. So
// bindings notes for each read of a repository the path, and whether a credential was
// used, and a reader must satisfy the rules about each known path of the repository, not
// only about the requested one. As soon as there is any rule, no client may read a module
// that was read with a credential and that no rule covers.

// verdict says whether a reader may read a module.
type verdict uint8

const (
	allowed verdict = iota
	unsure          // the repository of the module must be found first
	refused
)

func howRead(place vcs.Place) bindings.How {
	if place.Credential {
		return bindings.Credential
	}
	return bindings.Open
}

func noGroup(string) bool    { return false }
func everyGroup(string) bool { return true }

// rules are the access rules of one set of settings, and what they protect.
type rules struct {
	policy   *privacy.Policy
	bindings *bindings.Table
	log      *slog.Logger

	mu    sync.RWMutex
	repos map[string]protection // filled on demand
}

type protection struct {
	facts int // of the repository, when its rules were collected
	rules privacy.Rules
}

// judgePublic decides whether all clients may read a public module. Like judgePrivate it
// does no I/O, so that it can decide on each hit.
func (r *rules) judgePublic(modulePath string) verdict {
	if !r.policy.HasRules() {
		return allowed
	}
	for _, f := range r.bindings.Public(modulePath) {
		if !r.protection(f.Repository).Allowed(noGroup) {
			return refused // members of the groups use another path of it
		}
	}
	return allowed
}

// judgePrivate decides whether a reader with some groups may read a private module.
func (r *rules) judgePrivate(modulePath string, in func(string) bool) verdict {
	if !r.policy.HasRules() {
		return allowed
	}
	facts := r.bindings.Private(modulePath)
	covered, mayRead := r.policy.MayRead(modulePath, in)
	if !mayRead {
		return refused
	}
	result := allowed
	if len(facts) == 0 {
		result = unsure
	}
	for _, f := range facts {
		result = max(result, r.judgeFact(covered, f, in))
	}
	return result
}

// judgeFact decides about the repository of a module. covered says that a rule covers the
// path of the module.
func (r *rules) judgeFact(covered bool, f bindings.Fact, in func(string) bool) verdict {
	rules := r.protection(f.Repository)
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

// protection returns the rules about a repository: about its own path, and about each
// other known path of it.
func (r *rules) protection(repository string) privacy.Rules {
	if repository == "" {
		return nil // the repository is not known
	}
	facts := r.bindings.At(repository)
	r.mu.RLock()
	known, ok := r.repos[repository]
	r.mu.RUnlock()
	if ok && known.facts == len(facts) {
		return known.rules
	}
	rules := r.policy.Rules(pathsOf(repository, facts))
	if len(facts) == 0 {
		return rules // not kept: a client can request many unknown repositories
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.repos == nil {
		r.repos = map[string]protection{}
	}
	r.repos[repository] = protection{len(facts), rules}
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

// noteRead notes that the module of a fact was read at a place. It comes before any file
// of the module is stored or served.
func (r *rules) noteRead(ctx context.Context, fact bindings.Fact, place vcs.Place) error {
	fact.Repository, fact.How = place.Repository, howRead(place)
	facts := []bindings.Fact{fact}
	if place.Redirected != "" && place.Redirected != place.Repository {
		redirected := fact
		redirected.Repository = place.Redirected
		facts = append(facts, redirected)
	}
	if place.Declared != "" && place.Declared != fact.Module {
		facts = append(facts, bindings.Fact{Repository: place.Repository, Module: place.Declared, How: bindings.Declared})
	}
	known, before := len(r.bindings.At(place.Repository)), r.protection(place.Repository)
	for _, f := range facts {
		if err := r.bindings.Note(context.WithoutCancel(ctx), f); err != nil {
			return r.unnoted(fact.Module, place, err)
		}
	}
	if now := r.protection(place.Repository); known > 0 && len(now) > len(before) {
		r.log.Warn("another access rule now protects a repository: clients must satisfy it to read any of its modules", "repository", place.Repository, "module", fact.Module, "declared", place.Declared)
	}
	return nil
}

// unnoted returns the error for a module that could not be noted because of err. Not
// every client may learn its repository (veil).
func (r *rules) unnoted(modulePath string, place vcs.Place, err error) error {
	var full *bindings.LimitError
	if !errors.As(err, &full) {
		return err
	}
	if full.First {
		r.log.Warn("too many module paths for one repository or host; new ones are refused, known ones are still served", "of", full.Of, "limit", full.Limit, "module", modulePath)
	}
	return &vcs.Error{Module: modulePath, Place: place, Err: full}
}

// closed reports whether there is any private module that no client may read.
func (r *rules) closed() bool {
	for modulePath := range r.bindings.AllPrivate() {
		if r.judgePrivate(modulePath, everyGroup) != allowed {
			return true
		}
	}
	return false
}
