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

// An access rule names module paths, and what it is to protect is in a repository, which
// can have other paths: the one that says where it is, that of any page which names it,
// an old one. So of everything that is read from a repository it is noted under which
// path and with or without a credential (bindings), and a reader must satisfy the rules
// about each path under which the repository is known, not only about the one that was
// asked for. What is read with a credential, and is covered by no rule, is given to no
// client as soon as there is any rule.

// verdict says whether a reader may have a module.
type verdict uint8

const (
	allowed verdict = iota
	unsure          // where the module is has to be found out first
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
	repos map[string]protection // as far as they were asked for
}

type protection struct {
	facts int // of the repository, when the rules were looked for
	rules privacy.Rules
}

// judgePublic decides whether everyone may have a public module. It does no I/O, as
// judgePrivate: what is held can be served or refused by them.
func (r *rules) judgePublic(modulePath string) verdict {
	if !r.policy.Ruled() {
		return allowed
	}
	for _, f := range r.bindings.Public(modulePath) {
		if !r.protection(f.Repository).Allowed(noGroup) {
			return refused // members of the groups have another name for it
		}
	}
	return allowed
}

// judgePrivate decides whether a reader who is in some groups may have a private module.
func (r *rules) judgePrivate(modulePath string, in func(string) bool) verdict {
	if !r.policy.Ruled() {
		return allowed
	}
	facts := r.bindings.Private(modulePath)
	covered, mayRead := r.policy.Read(modulePath, in)
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

// judgeFact decides about a repository in which a module is. covered says that there is a
// rule about the path of the module.
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
// path under which it is known.
func (r *rules) protection(repository string) privacy.Rules {
	if repository == "" {
		return nil // it is not known
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
		return rules // a client can ask for many that are not known
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

// noteRead notes that the module of a fact was read at a place, before anything of it is
// stored or served.
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

// unnoted returns the error for a module about which err says that it was not noted. That
// it is in this repository is not for every client (veil).
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

// closed reports whether there is a private module that no client may read.
func (r *rules) closed() bool {
	for modulePath := range r.bindings.AllPrivate() {
		if r.judgePrivate(modulePath, everyGroup) != allowed {
			return true
		}
	}
	return false
}
