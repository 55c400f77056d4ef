package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/BurntSushi/toml"
)

// maxRemembered bounds the verified tokens that are remembered, at about 2 MB.
const maxRemembered = 4096

// issuers is the content of an OIDC file.
type issuers struct {
	byURL map[string]*issuer

	mu     sync.Mutex // guards judged
	judged map[[sha256.Size]byte]judgement
}

// judgement is a token that was verified, by its hash.
type judgement struct {
	id    Identity
	until time.Time // when the token expires, or its issuer's keys are to be looked at
}

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

// parseIssuers reads an OIDC file. What would let strangers in is an error:
// everybody on GitHub has tokens of GitHub's issuer.
func parseIssuers(data []byte, client *http.Client, log *slog.Logger) (*issuers, error) {
	var file struct {
		Issuers []issuerTable `toml:"issuer"`
	}
	meta, err := toml.Decode(string(data), &file)
	if err != nil {
		return nil, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("unknown key %q; an issuer has url, audience, and rules with claims and groups", unknown[0].String())
	}
	all := &issuers{byURL: map[string]*issuer{}, judged: map[[sha256.Size]byte]judgement{}}
	for _, table := range file.Issuers {
		if err := table.check(); err != nil {
			return nil, fmt.Errorf("issuer %q: %w", table.URL, err)
		}
		if all.byURL[table.URL] != nil {
			return nil, fmt.Errorf("issuer %q is listed twice; give one of them all the rules", table.URL)
		}
		all.byURL[table.URL] = newIssuer(table, client, log)
	}
	return all, nil
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
		if err := cmp.Or(r.check(), r.checkOwner(t.URL)); err != nil {
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

// claimMatches reports whether a claim matches; of an array one element must.
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

// identifyJWT identifies the bearer of a token of an issuer.
func (a *Authenticator) identifyJWT(ctx context.Context, token string) (Identity, error) {
	all := a.oidc.Get()
	if all == nil || len(all.byURL) == 0 {
		return Identity{}, refused("the credential is a JWT, but no OIDC issuer is configured")
	}
	sum := sha256.Sum256([]byte(token))
	if id, ok := all.remembered(sum); ok {
		return id, nil
	}
	i := all.byURL[unverifiedIssuer(token)]
	if i == nil {
		return Identity{}, refused("the JWT is malformed or its issuer is not configured")
	}
	id, until, err := i.judge(ctx, token)
	if err != nil {
		return Identity{}, err
	}
	all.remember(sum, judgement{id, until})
	return id, nil
}

// unverifiedIssuer returns the claim iss of a token as it stands there, to find
// whose keys to verify it with; "" if there is none.
func unverifiedIssuer(token string) string {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(data, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

func (i *issuers) remembered(sum [sha256.Size]byte) (Identity, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	j, ok := i.judged[sum]
	if ok && time.Now().After(j.until) {
		delete(i.judged, sum)
		return Identity{}, false // it will be judged again
	}
	return j.id, ok
}

// remember keeps a judgement. If there are too many, those go that have expired,
// else any one: to verify a token again costs a fraction of a millisecond.
func (i *issuers) remember(sum [sha256.Size]byte, j judgement) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.judged) >= maxRemembered {
		now := time.Now()
		for sum, old := range i.judged {
			if now.After(old.until) {
				delete(i.judged, sum)
			}
		}
	}
	for sum := range i.judged {
		if len(i.judged) < maxRemembered {
			break
		}
		delete(i.judged, sum)
	}
	i.judged[sum] = j
}

// safeURL reports whether nobody on the way can change what comes from a URL.
func safeURL(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && ip.Unmap().IsLoopback())
}
