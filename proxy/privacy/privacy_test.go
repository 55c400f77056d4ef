package privacy_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/privacy"
)

// The rows are those of the go command's own matching: a star does not cross a slash,
// a pattern covers what lies below it.
func TestPrivate(t *testing.T) {
	for _, tt := range []struct {
		patterns string
		path     string
		want     string // the pattern that matches, "" if the module is public
	}{
		{"corp.example", "corp.example", "corp.example"},
		{"corp.example", "corp.example/a/b", "corp.example"},
		{"corp.example/", "corp.example/a", "corp.example/"},
		{"corp.example", "git.corp.example/a", ""},
		{"corp.example", "corp.example.org/a", ""},
		{"*.corp.example", "git.corp.example/a", "*.corp.example"},
		{"*.corp.example", "a.b.corp.example/x", "*.corp.example"},
		{"*.corp.example", "corp.example/a", ""},
		{"corp.example/*", "corp.example/a/b", "corp.example/*"},
		{"corp.example/*", "corp.example", ""},
		{"github.com/acme", "github.com/acme-other/x", ""},
		{"github.com/MyCorp/*", "github.com/MyCorp/x", "github.com/MyCorp/*"},
		{"github.com/mycorp/secret", "github.com/mycorp/secret", "github.com/mycorp/secret"},
		{"github.com/mycorp/secret", "github.com/mycorp/secret/v2", "github.com/mycorp/secret"},
		{"a.example,b.example", "b.example/x", "b.example"},
		{"", "b.example/x", ""},
		{"*", "b.example/x", "*"},
		{"*", "golang.org/toolchain", ""},
		{"golang.org/*", "golang.org/toolchain", ""},
		{"golang.org/*", "golang.org/x/net", "golang.org/*"},
		{"none", "b.example/x", ""},
		{"[^A-Z]*.example", "b.example/x", "[^A-Z]*.example"},
		{"[^a].example/[A-Z]*", "b.example/Xyz", "[^a].example/[A-Z]*"},
		{`a.example/x~_\-?.git`, "a.example/x~_-1.git", `a.example/x~_\-?.git`},
	} {
		p, err := privacy.New(tt.patterns)
		if err != nil {
			t.Errorf("New(%q): %v", tt.patterns, err)
			continue
		}
		got, private := p.Private(tt.path)
		if got != tt.want || private != (tt.want != "") {
			t.Errorf("New(%q).Private(%q) = %q, %t, want %q", tt.patterns, tt.path, got, private, tt.want)
		}
	}
}

// What the go command ignores in silence must not start.
func TestNewRefuses(t *testing.T) {
	for _, patterns := range []string{
		"a.example, b.example", " a.example", "a.example ", "a.example\tb.example", "a.example\n",
		"[corp", "corp.example/[", `corp.example/\`, "https://corp.example", "/corp.example", "/",
		"a.example\u2003", "\u200ba.example", `"corp.example"`, "'corp.example'", "a.example;b.example", "git@corp.example:team", "corp.example:8443/team",
		"müller.example", "Corp.example", "corp.example//team", "corp.example//", "corp.example/...", ".corp.example", "corp.example./team", "corp.example/.hidden",
	} {
		if _, err := privacy.New(patterns); err == nil {
			t.Errorf("New(%q) succeeded, want an error", patterns)
		} else if !strings.Contains(err.Error(), "private pattern") {
			t.Errorf("New(%q): %v, want an error that names the pattern", patterns, err)
		}
	}
}

func TestEverything(t *testing.T) {
	for patterns, want := range map[string]bool{"*": true, "?*": true, "*.example": false, "": false, "corp.example": false} {
		p, err := privacy.New(patterns)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.MatchesAll(); got != want {
			t.Errorf("New(%q).MatchesAll() = %t, want %t", patterns, got, want)
		}
	}
}

func TestClientAdvice(t *testing.T) {
	for pattern, want := range map[string]string{
		"corp.example/*":   "Run: go env -w GONOSUMDB=corp.example",
		"corp.example/":    "Run: go env -w GONOSUMDB=corp.example",
		"*.example":        "Run: go env -w GONOSUMDB=*.example",
		"corp.example/a/b": "Run: go env -w GONOSUMDB=corp.example/a/b",
		"corp.example/A":   "If it is another spelling of a module that corp.example/A matches, require it by its own name.",
	} {
		if got := privacy.ClientAdvice("GONOSUMDB", pattern, "corp.example/a/b"); got != want {
			t.Errorf("ClientAdvice(%q) = %q, want %q", pattern, got, want)
		}
	}
}

// The go command's own matching is the measure, except for what it would ignore and
// for other spellings.
func FuzzPrivate(f *testing.F) {
	for _, seed := range [][2]string{
		{"corp.example", "corp.example/a"}, {"*.corp.example,github.com/acme/*", "github.com/acme/x/v2"}, {"[a-c]*/x", "b.example/x"},
		{"*", "golang.org/toolchain"}, {",,a.example", "a.example"}, {`a\b`, "ab"}, {"a.example/", "a.example"}, {"a//b", "a//b/c"}, {"?", "\xff/x"},
		{"github.com/acme", "github.com/ACME/x"}, {"a.example/X", "a.example/x.git/v2"}, {"a/B,a/b", "a/b"}, {"a/x.git", "a/x"}, {"a/*.git", "a/x.git"}, {"a/x.git/b.g?t", "a/x.git/b.git"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, patterns, path string) {
		p, err := privacy.New(patterns)
		if err != nil {
			return
		}
		pattern, private := p.Private(path)
		theirs := path != "golang.org/toolchain" && module.MatchPrefixPatterns(patterns, path)
		if theirs && (!private || !module.MatchPrefixPatterns(pattern, path)) {
			t.Errorf("New(%q).Private(%q) = %q, %t, the go command says it is private", patterns, path, pattern, private)
		}
		if private && !theirs && path == strings.ToLower(path) && patterns == strings.ToLower(patterns) && !strings.Contains(path+patterns, ".") {
			t.Errorf("New(%q).Private(%q) = %q, and there is no other spelling", patterns, path, pattern)
		}
		// Nobody gets around a pattern by the case of the letters.
		for _, other := range []string{strings.ToLower(path), strings.ToUpper(path)} {
			if _, is := p.Private(other); private && !strings.Contains(patterns, "[") && !is && path != "golang.org/toolchain" && other != "golang.org/toolchain" {
				t.Errorf("New(%q).Private(%q) is true, of %q it is not", patterns, path, other)
			}
		}
	})
}

// A name that a code host takes for a private one is never sent to anybody.
func TestPrivateOtherSpellings(t *testing.T) {
	p, err := privacy.New("github.com/acme,corp.example/Team,corp.example/team,*.git.example/x.git")
	if err != nil {
		t.Fatal(err)
	}
	for modulePath, want := range map[string]string{
		"github.com/acme/lib": "github.com/acme", "github.com/Acme/lib": "github.com/acme", "github.com/ACME.git": "github.com/acme", "github.com/acme.hg/v2": "github.com/acme",
		"corp.example/team/x": "corp.example/team", "corp.example/Team/x": "corp.example/Team", "corp.example/TEAM/x": "corp.example/Team",
		"a.git.example/X": "*.git.example/x.git", "a.git.example/x.git": "*.git.example/x.git",
		"github.com/acme2": "", "github.com/acme.go": "", "github.com/acmegit": "", "golang.org/toolchain": "", "git.example/x": "",
	} {
		if got, private := p.Private(modulePath); got != want || private != (want != "") {
			t.Errorf("Private(%s) = %q, %v, want %q", modulePath, got, private, want)
		}
	}
}

// It is asked of each request, of which most are for modules without other spellings.
func TestPrivateAllocates(t *testing.T) {
	p, err := privacy.New("corp.example,github.com/acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, modulePath := range []string{"github.com/rs/zerolog", "gopkg.in/yaml.v3", "github.com/nats-io/nats.go"} {
		if n := testing.AllocsPerRun(100, func() { p.Private(modulePath) }); n != 0 {
			t.Errorf("Private(%s) allocates %v times", modulePath, n)
		}
	}
}

func TestRestrict(t *testing.T) {
	base, err := privacy.New("corp.example,open.example")
	if err != nil {
		t.Fatal(err)
	}
	p, err := base.Restrict("corp.example=staff|ops,,corp.example/secret=board,*.team.example=*")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Patterns(), "corp.example,open.example,corp.example/secret,*.team.example"; got != want {
		t.Errorf("Patterns() = %q, want %q", got, want)
	}
	if got := p.Unrestricted(); len(got) != 1 || got[0] != "open.example" {
		t.Errorf("Open() = %q", got)
	}
	for _, tt := range []struct {
		path, groups string // groups of the reader
		allowed      bool
	}{
		{"corp.example/a", "", false},
		{"corp.example/a", "staff", true},
		{"corp.example/a", "ops *", true},
		{"corp.example/a", "board *", false},
		{"corp.example/secret/x", "staff", false},
		{"corp.example/secret/x", "board", false},
		{"corp.example/secret/x", "board staff", true},
		{"corp.example/secrets", "staff", true},
		{"a.team.example/x", "", false},
		{"a.team.example/x", "*", true},
		{"open.example/x", "", true},
		{"golang.org/toolchain", "", true},
	} {
		in := func(group string) bool { return strings.Contains(" "+tt.groups+" ", " "+group+" ") }
		if got := p.Allowed(tt.path, in); got != tt.allowed {
			t.Errorf("%s for %q: %v, want %v", tt.path, tt.groups, got, tt.allowed)
		}
		if got, want := p.Restricted(tt.path), !strings.HasPrefix(tt.path, "open") && tt.path != "golang.org/toolchain"; got != want {
			t.Errorf("Restricted(%s) = %v", tt.path, got)
		}
	}
	if all := func(string) bool { return true }; !p.AllowedAll(all) || p.AllowedAll(func(g string) bool { return g != "board" }) || !base.AllowedAll(func(string) bool { return false }) {
		t.Error("AllowedAll is not what all rules say")
	}
	if base.Restricted("corp.example/a") {
		t.Error("Restrict changed what it was called on")
	}
	for _, rules := range []string{"corp.example", "=staff", "corp.example=", "corp.example=a||b", "corp.example=a b", "https://x=a", "[=a"} {
		if _, err := base.Restrict(rules); err == nil {
			t.Errorf("Restrict(%q): no error", rules)
		}
	}
}

// A rule is about a repository, whatever other names code hosts have for it. Such a
// name is private too; one that is near is not.
func TestRestrictOtherNames(t *testing.T) {
	p, err := privacy.New("")
	if err != nil {
		t.Fatal(err)
	}
	if p, err = p.Restrict("github.com/corp/secret=team,git.corp.example/Team/x.git=team,corp.example/*.git=team,corp.example/[A-M]*=team"); err != nil {
		t.Fatal(err)
	}
	for modulePath, want := range map[string]bool{
		"github.com/corp/secret": true, "github.com/Corp/SECRET": true, "github.com/corp/secret.git": true, "github.com/corp/secret.git.git": true, "github.com/corp/secret.git.Git/v2": true, "github.com/corp/Secret.Git/v2": true,
		"github.com/corp/secret.hg/sub": true, "git.corp.example/team/x": true, "git.corp.example/Team/x.git": true, "git.corp.example/Team/X/sub": true,
		"corp.example/any.git": true, "corp.example/any.GIT/v2": true, "corp.example/Lib": true, "corp.example/lib": true,
		"github.com/corp": false, "github.com/corp/secrets": false, "github.com/corp/secretgit": false, "github.com/corp/open.git": false,
		"corp.example/open": false, "github.git/corp/secret": false, "golang.org/toolchain": false,
	} {
		_, private := p.Private(modulePath)
		if got := p.Restricted(modulePath); got != want || private != want {
			t.Errorf("%s: restricted %v, private %v, want %v", modulePath, got, private, want)
		}
	}
}

// A reader knows the patterns whose modules it may read, and of those without a rule what is open.
func TestKnown(t *testing.T) {
	for _, tt := range []struct{ private, rules, group, want string }{
		{"corp.example,open.example", "", "", "open.example"},
		{"open.example", "corp.example=dev", "", "open.example"},
		{"open.example", "corp.example=dev", "dev", "corp.example open.example"},
		{"", "corp.example=dev,corp.example/pay=pay|dev", "pay", ""},
		{"", "corp.example=dev,corp.example/pay=pay", "dev", "corp.example"},
		{"", "corp.example/pay=pay,corp.example=anyone", "pay", "corp.example corp.example/pay"},
		{"corp.example/lib", "corp.example=dev", "", ""},
		{"corp.example/lib", "corp.example=dev", "dev", "corp.example corp.example/lib"},
		{"corp.example/lib.git", "corp.example/LIB=dev", "", ""},
		{"*.corp.example", "*.corp.example=dev", "", ""},
		{"a.corp.example", "*.corp.example=dev", "", ""},
		{"open.example", "open.example=anyone", "", "open.example"},
	} {
		p, err := privacy.New(tt.private)
		if err == nil {
			p, err = p.Restrict(tt.rules)
		}
		if err != nil {
			t.Fatal(err)
		}
		known := p.Known(func(group string) bool { return group == tt.group }, func(pattern string) bool { return pattern == "open.example" })
		slices.Sort(known)
		if got := strings.Join(known, " "); got != tt.want {
			t.Errorf("private %q, rules %q, in %q: %q, want %q", tt.private, tt.rules, tt.group, got, tt.want)
		}
	}
}
