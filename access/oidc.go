package access

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/BurntSushi/toml"
)

// maxRemembered bounds the remembered tokens, at about 2 MB.
const maxRemembered = 4096

// issuers is the content of an OIDC file.
type issuers struct {
	byURL map[string]*issuer

	mu     sync.Mutex // guards judged
	judged map[[sha256.Size]byte]judgement
}

// judgement is the result for a verified token, which is known by its hash.
type judgement struct {
	id    Identity
	until time.Time // when the token expires, or its issuer's keys must be checked again
}

// parseIssuers reads an OIDC file. Rules that would admit strangers are an error: every user of
// GitHub has tokens of GitHub's issuer.
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

// unverifiedIssuer returns the claim iss of a token without verification, to choose the issuer
// whose keys verify it; "" if there is none.
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
		return Identity{}, false // the token will be verified again
	}
	return j.id, ok
}

// remember keeps a judgement. If there are too many, it drops the expired ones, or else any one:
// verifying a token again costs a fraction of a millisecond. A memo.Map would keep expired tokens for
// longer.
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
