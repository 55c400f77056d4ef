package access

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/durable"
)

// tokenHeader begins a new token file.
const tokenHeader = `# Tokens of assay, one per line. The tokens themselves are nowhere: this has their hashes.
# id, SHA-256 of the token, name, groups (a,b), created, expires, revoked, scope if it has one; - is none.
`

// CreateToken adds a token to a file, which it creates if it does not exist (mode 0600), and
// returns its secret. No file contains the secret, so it cannot be read again. It uses Name,
// Groups, Scope and Expires of t.
//
// The file is replaced as a whole and synced, under a lock in a file beside it (the name and
// ".lock"): concurrent calls, also of RevokeToken, lose nothing, and a crash leaves the old file or
// the new one.
func CreateToken(file string, t Token) (secret string, err error) {
	now := time.Now()
	if err := t.check(now); err != nil {
		return "", err
	}
	secret = newSecret()
	t.sum = sha256.Sum256([]byte(secret))
	t.Created, t.Revoked = now, false
	err = editTokens(file, func(data []byte, list []Token) ([]byte, error) {
		taken := map[string]bool{}
		for _, other := range list {
			taken[other.ID] = true
		}
		for t.ID = newID(); taken[t.ID]; {
			t.ID = newID()
		}
		if len(data) == 0 {
			data = []byte(tokenHeader)
		}
		if data[len(data)-1] != '\n' { // edited by hand
			data = append(data, '\n')
		}
		return append(data, t.line()+"\n"...), nil
	})
	if err != nil {
		return "", fmt.Errorf("create a token in %s: %w", file, err)
	}
	return secret, nil
}

// check refuses a token that the file cannot store, and one that would be useless.
func (t Token) check(now time.Time) error {
	if !goodName(t.Name) {
		return fmt.Errorf("the name %q of a token must have no white space or unprintable characters, and 1 to %d bytes", t.Name, maxName)
	}
	for _, group := range t.Groups {
		if !goodGroup(group) {
			return fmt.Errorf("the group %q of a token must have no white space, comma or unprintable characters, and 1 to %d bytes", group, maxName)
		}
	}
	if err := checkScope(t.Scope); err != nil {
		return err
	}
	if year := t.Expires.UTC().Year(); year > 9999 { // RFC 3339 has no such year
		return fmt.Errorf("the token would expire in the year %d; the last possible year is 9999; create one that never expires", year)
	}
	if t.ExpiredAt(now) {
		return fmt.Errorf("the token would have expired on %s already", t.Expires.Format(time.RFC3339))
	}
	return nil
}

// ListTokens returns the tokens of a file in their order. The error wraps fs.ErrNotExist if there
// is no file.
func ListTokens(file string) ([]Token, error) {
	data, _, err := readFile(file, othersAny)
	if err != nil {
		return nil, fmt.Errorf("token file %s: %w", file, err)
	}
	list, err := parseTokenList(data)
	if err != nil {
		return nil, fmt.Errorf("token file %s: %w", file, err)
	}
	return list, nil
}

// RevokeToken marks a token as revoked. It stays in the file, so that the log can name the token if
// it is still used. Revoking it twice is not an error. The error wraps fs.ErrNotExist if there is
// no such token.
func RevokeToken(file, id string) error {
	err := editTokens(file, func(data []byte, list []Token) ([]byte, error) {
		var edited strings.Builder
		found := false
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) > 0 && fields[0] == id {
				if t, err := parseToken(strings.TrimSpace(line)); err == nil { // a comment is not a token
					t.Revoked, found = true, true
					line = t.line() + "\n"
				}
			}
			edited.WriteString(line)
		}
		if !found {
			return nil, fmt.Errorf("there is no such token: %w", fs.ErrNotExist)
		}
		return []byte(edited.String()), nil
	})
	if err != nil {
		return fmt.Errorf("revoke the token %q in %s: %w", id, file, err)
	}
	return nil
}

// editTokens replaces a token file by the result of edit, which must keep comments and order.
func editTokens(file string, edit func(data []byte, list []Token) ([]byte, error)) error {
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target // a symbolic link stays; its target is replaced
	}
	lock, err := lockFile(file + ".lock")
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	defer lock.Close() // unlocks
	data, info, err := readFile(file, othersAny)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	list, err := parseTokenList(data)
	if err != nil {
		return err
	}
	edited, err := edit(data, list)
	if err != nil {
		return err
	}
	// Owner and mode stay: a command of an administrator must not make the file unreadable for the
	// user of the server.
	return durable.ReplaceWith(file, 0o600, func(f *os.File) ([]byte, error) {
		if info == nil {
			return edited, nil
		}
		return edited, durable.Inherit(f, info)
	})
}
