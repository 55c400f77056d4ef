package access

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// rule gives groups to tokens with certain claims.
type rule struct {
	Claims map[string]string `toml:"claims"`
	Groups []string          `toml:"groups"`
}

// issuerTable is an [[issuer]] of the file.
type issuerTable struct {
	URL      string `toml:"url"`
	Audience string `toml:"audience"`
	Rules    []rule `toml:"rule"`
}

func (t issuerTable) check() error {
	u, err := url.Parse(t.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("url must be the https URL of the issuer, as it is in the claim iss")
	case !safeURL(u):
		return errors.New("url must be https; http is for issuers on this machine only, at a loopback address")
	case t.Audience == "":
		return errors.New("audience is empty; name the audience of tokens for this server, or tokens for any other server would be accepted")
	case len(t.Rules) == 0:
		return errors.New("there is no [[issuer.rule]]; a rule must say which tokens are accepted")
	}
	for i, r := range t.Rules {
		if err := cmp.Or(r.check(), checkOwner(t.URL, r.Claims)); err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return nil
}

// check refuses a rule that every token matches.
func (r rule) check() error {
	if len(r.Claims) == 0 {
		return errors.New("there are no claims; every account at the issuer would match")
	}
	says := false
	for claim, pattern := range r.Claims {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return fmt.Errorf("claim %s: the pattern %q is empty or malformed", claim, pattern)
		}
		says = says || strings.Trim(pattern, "*?/") != ""
	}
	if !says {
		return errors.New("the claims match any value; every account at the issuer would match")
	}
	for _, group := range r.Groups {
		if !goodGroup(group) {
			return fmt.Errorf("the group %q is not a usable name", group)
		}
	}
	return nil
}

// matches reports whether each claim of the rule is in claims with a value that
// matches.
func (r rule) matches(claims map[string]any) bool {
	for name, pattern := range r.Claims {
		if !claimMatches(claims[name], pattern) {
			return false
		}
	}
	return true
}

// claimMatches reports whether a claim matches the pattern; of an array, one element must match.
func claimMatches(value any, pattern string) bool {
	var text string
	switch value := value.(type) {
	case string:
		text = value
	case json.Number:
		text = value.String()
	case bool:
		text = strconv.FormatBool(value)
	case []any:
		for _, element := range value {
			if _, nested := element.([]any); !nested && claimMatches(element, pattern) {
				return true
			}
		}
		return false
	default: // absent, null, an object
		return false
	}
	ok, err := path.Match(pattern, text)
	return ok && err == nil
}

// safeURL reports whether the content of a URL is protected from changes in transit.
func safeURL(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && ip.Unmap().IsLoopback())
}
