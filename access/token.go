package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// tokenPrefix is the prefix of a token, so that people and secret scanners recognize one.
const tokenPrefix = "assay_"

// revoked marks a revoked token in the token file.
const revoked = "revoked"

// A Token is an entry of the token file.
type Token struct {
	ID      string // CreateToken sets it
	Name    string // name of the client: no white space, at most 255 bytes
	Groups  []string
	Scope   []string  // patterns in the syntax of GOPRIVATE; none = everything that its groups may read
	Created time.Time // CreateToken sets it; zero = not known
	Expires time.Time // zero = never
	Revoked bool

	// sum is the hash of the secret. SHA-256 is right here, and bcrypt would be wrong: a secret of
	// 200 random bits cannot be guessed however fast the hash is, and a request with a token costs
	// microseconds. A fast hash is unsafe only for secrets that people choose.
	sum [sha256.Size]byte
}

// tokens are the tokens of the file by the hash of their secret.
type tokens map[[sha256.Size]byte]*Token

// newSecret returns a secret: the prefix and 40 characters with 200 random bits.
func newSecret() string {
	random := make([]byte, 25) // 40 characters without padding
	rand.Read(random)          // never fails
	return tokenPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(random))
}

// newID returns an ID of 8 characters, which is not a secret.
func newID() string {
	return strings.ToLower(rand.Text()[:8])
}

// Matches reports whether secret is the secret of the token.
func (t Token) Matches(secret string) bool {
	return t.sum == sha256.Sum256([]byte(secret)) // compares hashes, so the time reveals nothing
}

// ExpiredAt reports whether the token is refused at now because it has expired.
func (t Token) ExpiredAt(now time.Time) bool {
	return !t.Expires.IsZero() && !now.Before(t.Expires)
}

// parseTokens reads a token file into a map.
func parseTokens(data []byte) (tokens, error) {
	list, err := parseTokenList(data)
	if err != nil {
		return nil, err
	}
	all := make(tokens, len(list))
	for _, t := range list {
		all[t.sum] = &t
	}
	return all, nil
}

// parseTokenList returns the tokens in the order of the file. We write tabs between the fields;
// administrators may use spaces.
func parseTokenList(data []byte) ([]Token, error) {
	var list []Token
	ids := map[string]bool{}
	sums := map[[sha256.Size]byte]bool{}
	err := eachLine(data, func(line string) error {
		t, err := parseToken(line)
		switch {
		case err != nil:
			return err
		case ids[t.ID]:
			return fmt.Errorf("the id %s is listed twice", t.ID)
		case sums[t.sum]:
			return fmt.Errorf("the token of id %s is listed twice", t.ID)
		}
		ids[t.ID], sums[t.sum] = true, true
		list = append(list, t)
		return nil
	})
	return list, err
}

// parseToken reads a line of the file: id, sha256, name, groups, created, expires, revoked, and the
// scope if it has one.
func parseToken(line string) (Token, error) {
	fields := strings.Fields(line)
	if len(fields) != 7 && len(fields) != 8 {
		return Token{}, fmt.Errorf("there are %d fields; want 7 or 8: id, sha256 of the token, name, groups, created, expires, revoked, scope", len(fields))
	}
	t := Token{ID: fields[0], Name: fields[2]}
	if !goodName(t.ID) || !goodName(t.Name) {
		return Token{}, errors.New("the id or the name is too long or has unprintable characters")
	}
	sum, err := hex.DecodeString(fields[1])
	if err != nil || len(sum) != sha256.Size {
		return Token{}, fmt.Errorf("token %s: the second field is not a SHA-256 in hex", t.ID)
	}
	t.sum = [sha256.Size]byte(sum)
	if t.Groups, err = parseGroupList(fields[3]); err != nil {
		return Token{}, fmt.Errorf("token %s: %w", t.ID, err)
	}
	if t.Created, err = parseTime(fields[4]); err != nil {
		return Token{}, fmt.Errorf("token %s: created: %w", t.ID, err)
	}
	if t.Expires, err = parseTime(fields[5]); err != nil {
		return Token{}, fmt.Errorf("token %s: expires: %w", t.ID, err)
	}
	if fields[6] != none && fields[6] != revoked {
		return Token{}, fmt.Errorf("token %s: revoked is neither %s nor %s", t.ID, none, revoked)
	}
	t.Revoked = fields[6] == revoked
	if len(fields) == 8 && fields[7] != none {
		t.Scope = strings.Split(fields[7], ",")
		err = checkScope(t.Scope)
	}
	if err != nil {
		return Token{}, fmt.Errorf("token %s: %w", t.ID, err)
	}
	return t, nil
}

// checkScope refuses patterns that would match nothing, and the file's word for no scope. An
// administrator notices if a token may read too little, but not if it may read too much.
func checkScope(patterns []string) error {
	for _, pattern := range patterns {
		if _, err := path.Match(pattern, ""); err != nil || !goodName(pattern) || pattern == none || strings.Contains(pattern, ",") {
			return fmt.Errorf("%q in the scope is no pattern like corp.example/team", pattern)
		}
	}
	return nil
}

func parseGroupList(text string) ([]string, error) {
	if text == none {
		return nil, nil
	}
	groups := strings.Split(text, ",")
	if slices.ContainsFunc(groups, func(g string) bool { return !goodGroup(g) }) {
		return nil, errors.New("the groups are not names separated by commas")
	}
	return groups, nil
}

func parseTime(text string) (time.Time, error) {
	if text == none {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("want a time like 2026-01-31T12:00:00Z, or %s", none)
	}
	return t, nil
}

// line returns the line of the token in the file.
func (t Token) line() string {
	groups, mark := none, none
	if len(t.Groups) > 0 {
		groups = strings.Join(t.Groups, ",")
	}
	if t.Revoked {
		mark = revoked
	}
	fields := []string{t.ID, hex.EncodeToString(t.sum[:]), t.Name, groups, formatTime(t.Created), formatTime(t.Expires), mark}
	if len(t.Scope) > 0 {
		fields = append(fields, strings.Join(t.Scope, ","))
	}
	return strings.Join(fields, "\t")
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format(time.RFC3339)
}
