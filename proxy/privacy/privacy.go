// Package privacy decides, without I/O, whether a module is private or public,
// and why, and which groups may read it. It decides about all versions of a
// module at once: it gets no version.
//
// Patterns have the syntax and the meaning of GOPRIVATE
// (go.dev/ref/mod#environment-variables) and are matched against the decoded
// module path, never against its escaped form or with a version attached: both
// let private names slip through.
package privacy

import (
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/module"
)

// toolchain is the module that the go command verifies whatever its settings
// say (cmd/go, modfetch.useSumDB). No pattern can make it private.
const toolchain = "golang.org/toolchain"

// A Policy answers for one set of patterns. The zero value has none: every
// module is public.
type Policy struct {
	private []pattern
	rules   []rule
}

// rule says which groups may read what a pattern covers.
type rule struct {
	pattern
	groups []string
}

// pattern is one in the syntax of GOPRIVATE. It covers what matches it, and what
// would if the differences were gone that code hosts do not see. The client chooses
// the path: without that, the name github.com/Corp/lib would be sent to a public
// mirror although github.com/corp is private, and github.com/corp/lib.git would be a
// way around a rule for github.com/corp/lib.
type pattern struct {
	text, lower, plain string
}

func newPattern(text string) (pattern, error) {
	lower := strings.ToLower(text)
	return pattern{text, lower, plain(lower)}, checkPattern(text)
}

// covers reports whether the pattern matches a module path or another spelling of it.
func (p pattern) covers(s spellings) bool { return p.matches(s.path) || p.matchesOther(s) }

// spellings are a module path as it is, in lower case, and plain.
type spellings struct {
	path, lower, plain string
}

func spell(modulePath string) spellings {
	lower := strings.ToLower(modulePath)
	return spellings{modulePath, lower, plain(lower)}
}

// matches reports whether the go command would say that the pattern matches.
func (p pattern) matches(modulePath string) bool {
	return module.MatchPrefixPatterns(p.text, modulePath)
}

// matchesOther reports whether it matches another spelling of a module path.
func (p pattern) matchesOther(s spellings) bool {
	return (p.lower != p.text || s.lower != s.path) && module.MatchPrefixPatterns(p.lower, s.lower) ||
		(p.plain != p.lower || s.plain != s.lower) && module.MatchPrefixPatterns(p.plain, s.plain)
}

// covering yields the rules that are about a module.
func (p *Policy) covering(modulePath string) iter.Seq[rule] {
	return func(yield func(rule) bool) {
		if len(p.rules) == 0 || modulePath == toolchain {
			return
		}
		spelled := spell(modulePath)
		for _, r := range p.rules {
			if r.covers(spelled) && !yield(r) {
				return
			}
		}
	}
}

// plain removes, from a module path or a pattern in lower case, the names of version
// control systems that the go command allows at the end of a repository, as in x.git.
func plain(lower string) string {
	host, rest, _ := strings.Cut(lower, "/")
	if !strings.Contains(rest, ".") || !slices.ContainsFunc(systems(), func(system string) bool { return strings.Contains(rest, system) }) {
		return lower // as nearly always
	}
	elements := strings.Split(rest, "/")
	for i := range elements {
		for { // of x.git.git the go command makes x.git, which hosts find as x
			name, isOne := cutSystem(elements[i])
			if !isOne || strings.ContainsAny(name, `*?[]\`) {
				break
			}
			elements[i] = name
		}
	}
	return host + "/" + strings.Join(elements, "/")
}

func systems() []string { return []string{".bzr", ".fossil", ".git", ".hg", ".svn"} }

// cutSystem returns an element without the name of a version control system at its end,
// if there is one and something before it.
func cutSystem(element string) (name string, found bool) {
	system := path.Ext(element)
	name = strings.TrimSuffix(element, system)
	return name, name != "" && slices.Contains(systems(), system)
}

const (
	// Authenticated is the group of all authenticated clients.
	Authenticated = "*"

	// anyone is the group of all clients. A rule with it restricts nothing: it
	// says that every client may read the modules that it covers.
	anyone = "anyone"
)

// New returns the policy for lists of private patterns, each in the syntax of
// GOPRIVATE. What the go command would ignore in silence is an error here,
// because an ignored pattern is a name that leaks: white space, which is not
// trimmed, a pattern that path.Match refuses, a URL, whatever else no module path
// can match.
func New(lists ...string) (*Policy, error) {
	p := new(Policy)
	for _, list := range lists {
		for text := range strings.SplitSeq(list, ",") {
			if text == "" {
				continue // a comma too many hides nothing
			}
			private, err := newPattern(text)
			if err != nil {
				return nil, fmt.Errorf("private pattern %q in %q: %w", text, list, err)
			}
			p.private = append(p.private, private)
		}
	}
	return p, nil
}

// checkPattern returns an error for a pattern that no module path can match: see
// module.CheckPath for what a path can be.
func checkPattern(pattern string) error {
	if strings.ContainsFunc(pattern, func(r rune) bool { return r <= ' ' || r == 0x7f || unicode.IsSpace(r) }) {
		return fmt.Errorf("it contains white space, which the go command does not trim, so it would match nothing; remove it")
	}
	if strings.Contains(pattern, "://") {
		return fmt.Errorf("it is a URL and would match nothing; write the module path prefix, for example corp.example/team")
	}
	if strings.Trim(pattern, "/") == "" || strings.HasPrefix(pattern, "/") {
		return fmt.Errorf("it begins with a slash and would match nothing; write the module path prefix, for example corp.example/team")
	}
	if i := strings.IndexFunc(pattern, func(r rune) bool { return !inPattern(r) }); i >= 0 {
		r, _ := utf8.DecodeRuneInString(pattern[i:])
		return fmt.Errorf("it contains %q, which no module path has, so it would match nothing; remove it", r)
	}
	// As module.MatchPrefixPatterns does, without the trailing slash.
	glob := strings.TrimSuffix(pattern, "/")
	if _, err := path.Match(glob, ""); err != nil {
		return fmt.Errorf("the go command would ignore it: %w", err)
	}
	for element := range strings.SplitSeq(glob, "/") {
		if element == "" || element[0] == '.' || element[len(element)-1] == '.' {
			return fmt.Errorf("it has the element %q, which no module path has, so it would match nothing; a pattern also matches all paths below it", element)
		}
	}
	// Brackets may name upper case to exclude it, as in [^A-Z].
	if host, _, _ := strings.Cut(glob, "/"); !strings.Contains(host, "[") && strings.ContainsFunc(host, unicode.IsUpper) {
		return fmt.Errorf("it begins with %q, and the first element of a module path has no upper case, so it would match nothing; write it in lower case", host)
	}
	return nil
}

// inPattern reports whether a pattern that matches some module path can contain
// r: what module paths are made of, and what path.Match gives a meaning.
func inPattern(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(`-._~/*?[]^\`, r)
}

// Restrict returns p with rules added, which are separated by commas:
// pattern=group|group. The pattern is like one given to New; what it covers is private
// too. Of a module that several rules are about, each of them must name a group of the
// reader, so that a rule can take away and never give.
func (p *Policy) Restrict(rules string) (*Policy, error) {
	next := &Policy{slices.Clone(p.private), slices.Clone(p.rules)}
	for text := range strings.SplitSeq(rules, ",") {
		if text == "" {
			continue
		}
		r, err := parseRule(text)
		if err != nil {
			return nil, fmt.Errorf("access rule %q: %w", text, err)
		}
		next.rules = append(next.rules, r)
		if !slices.Contains(next.private, r.pattern) {
			next.private = append(next.private, r.pattern)
		}
	}
	return next, nil
}

func parseRule(text string) (rule, error) {
	name, names, found := strings.Cut(text, "=")
	if !found {
		return rule{}, fmt.Errorf("it must be pattern=group|group; a comma ends a rule, so if %[1]q is one more group of the rule before it, write |%[1]s there", text)
	}
	if name == "" {
		return rule{}, fmt.Errorf("it must be pattern=group|group")
	}
	restricted, err := newPattern(name)
	if err != nil {
		return rule{}, err
	}
	groups := strings.Split(names, "|")
	for _, group := range groups {
		if group == "" || strings.ContainsFunc(group, func(r rune) bool { return r <= ' ' || r == 0x7f || unicode.IsSpace(r) }) {
			return rule{}, fmt.Errorf("%q is no name of a group; %s is all who have authenticated, %s is every client", group, Authenticated, anyone)
		}
	}
	return rule{restricted, groups}, nil
}

// Restricted reports whether some rule is about the module with the decoded path.
func (p *Policy) Restricted(modulePath string) bool {
	return !p.Allowed(modulePath, func(string) bool { return false })
}

// Allowed reports whether a reader may have the module with the decoded path. in
// says whether the reader is in a group; it is not asked if there is no rule.
func (p *Policy) Allowed(modulePath string, in func(group string) bool) bool {
	_, allowed := p.MayRead(modulePath, in)
	return allowed
}

// MayRead reports whether some rule covers the module with the decoded path, and whether
// a reader satisfies all that do, as Allowed does.
func (p *Policy) MayRead(modulePath string, in func(group string) bool) (covered, allowed bool) {
	for r := range p.covering(modulePath) {
		if covered = true; !r.allows(in) {
			return true, false
		}
	}
	return covered, true
}

// allows reports whether the rule lets a reader in.
func (r rule) allows(in func(group string) bool) bool {
	return slices.Contains(r.groups, anyone) || slices.ContainsFunc(r.groups, in)
}

// AllowedAll reports whether a reader may read all modules.
func (p *Policy) AllowedAll(in func(group string) bool) bool {
	return Rules(p.rules).Allowed(in)
}

// HasRules reports whether there is any rule.
func (p *Policy) HasRules() bool { return len(p.rules) > 0 }

// Rules are some of the rules of a Policy.
type Rules []rule

// Rules returns the rules that cover one of the decoded module paths, or several.
func (p *Policy) Rules(modulePaths iter.Seq[string]) Rules {
	found := make([]bool, len(p.rules))
	for modulePath := range modulePaths {
		spelled := spell(modulePath)
		for i, r := range p.rules {
			found[i] = found[i] || modulePath != toolchain && r.covers(spelled)
		}
	}
	var all Rules
	for i, r := range p.rules {
		if found[i] {
			all = append(all, r)
		}
	}
	return all
}

// Allowed reports whether a reader satisfies all the rules.
func (rs Rules) Allowed(in func(group string) bool) bool {
	return !slices.ContainsFunc(rs, func(r rule) bool { return !r.allows(in) })
}

// Bypasses returns, by the pattern of a rule, the patterns of other rules whose readers can
// get around that rule: with a path that they may read and that leads to the same
// repository, as long as nothing was read through a path that the rule covers. hosts are the
// hosts that credentials are for: a rule whose pattern names such a host protects its
// repositories by their own names, so the result omits a rule if another one, on one of
// hosts, has the same groups or fewer. usable reports whether a credential is used for some
// module that a pattern covers.
func (p *Policy) Bypasses(hosts []string, usable func(pattern string) bool) map[string][]string {
	onHost := func(r rule) bool {
		host, _, _ := strings.Cut(r.lower, "/")
		return slices.ContainsFunc(hosts, func(h string) bool { ok, err := path.Match(host, h); return ok && err == nil })
	}
	around := map[string][]string{}
	for _, r := range p.rules {
		named := slices.ContainsFunc(p.rules, func(o rule) bool { return onHost(o) && o.subsetOf(r) })
		if slices.Contains(r.groups, anyone) || named || !usable(r.text) {
			continue
		}
		for _, other := range p.rules {
			if !other.subsetOf(r) && usable(other.text) {
				around[r.text] = append(around[r.text], other.text)
			}
		}
	}
	return around
}

// subsetOf reports whether each reader of r satisfies the other rule.
func (r rule) subsetOf(other rule) bool {
	return !slices.ContainsFunc(r.groups, func(group string) bool {
		return !slices.Contains(other.groups, group) && !slices.Contains(other.groups, anyone)
	})
}

// Unrestricted returns the private patterns for which there is no rule with the same text.
// Every client that reaches the proxy can read what they match, unless another rule matches.
func (p *Policy) Unrestricted() []string {
	var open []string
	for _, private := range p.private {
		if !slices.ContainsFunc(p.rules, func(r rule) bool { return r.text == private.text }) {
			open = append(open, private.text)
		}
	}
	return open
}

// Known returns the private patterns that a reader may know: those whose modules it may read by the
// rules, and of those without a rule the ones that open allows. in says whether the reader is in a
// group. A rule for a part of what a pattern covers does not hide the pattern.
func (p *Policy) Known(in func(group string) bool, open func(pattern string) bool) []string {
	var known []string
	for _, private := range p.private {
		ruled, allowed := false, true
		for _, r := range p.rules {
			if r.text == private.text || r.covers(spell(private.text)) {
				ruled, allowed = true, allowed && r.allows(in)
			}
		}
		if allowed && (ruled || open(private.text)) && !slices.Contains(known, private.text) {
			known = append(known, private.text)
		}
	}
	return known
}

// Overlap reports whether some module can match both patterns, as far as their text says
// so without a wildcard.
func Overlap(a, b string) bool {
	return module.MatchPrefixPatterns(a, b) || module.MatchPrefixPatterns(b, a)
}

// Patterns returns the patterns as one list.
func (p *Policy) Patterns() string {
	var texts []string
	for _, private := range p.private {
		texts = append(texts, private.text)
	}
	return strings.Join(texts, ",")
}

// Private reports whether the module with the decoded path is private, and the
// pattern that says so. It is if the go command says so, and besides if it is another
// spelling of what the go command says it of: in upper case for lower case or the
// other way round, or with .git at the end of an element.
func (p *Policy) Private(modulePath string) (covering string, private bool) {
	if len(p.private) == 0 || modulePath == toolchain {
		return "", false
	}
	for _, pattern := range p.private {
		if pattern.matches(modulePath) {
			return pattern.text, true
		}
	}
	spelled := spell(modulePath)
	for _, pattern := range p.private {
		if pattern.matchesOther(spelled) {
			return pattern.text, true
		}
	}
	return "", false
}

// MatchesAll reports whether some pattern makes every module private, which is
// legal and rarely meant.
func (p *Policy) MatchesAll() bool {
	_, all := p.Private("a.example/b")
	_, too := p.Private("b.test")
	return all && too
}

// ClientAdvice tells a developer what to do so that a variable of the go command on
// their machine, GOPRIVATE or GONOSUMDB, covers a module that is private here because
// of the pattern.
func ClientAdvice(variable, pattern, modulePath string) string {
	if !module.MatchPrefixPatterns(pattern, modulePath) {
		return "If it is another spelling of a module that " + pattern + " matches, require it by its own name."
	}
	return "Run: go env -w " + variable + "=" + strings.TrimSuffix(strings.TrimSuffix(pattern, "/*"), "/")
}
