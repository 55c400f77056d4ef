package pinlog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode"

	"golang.org/x/mod/sumdb/note"

	"github.com/assay-proxy/assay/internal/durable"
)

// create makes an empty log with a new key. Without a name it generates one. It writes the key
// last: as long as the key is missing, nothing can be signed, and the next create makes everything
// again. A key without a guard was therefore put beside an empty log later; such a log must refuse.
func create(ctx context.Context, at location, name string) (keyPair, error) {
	if err := checkVacant(ctx, at, name); err != nil {
		return keyPair{}, err
	}
	key, secret, err := generateKey(name, at.path("key"))
	if err != nil {
		return keyPair{}, err
	}
	if err := createEntries(at, key); err != nil {
		return keyPair{}, err
	}
	if err := key.writePublicFile(at); err != nil {
		return keyPair{}, err
	}
	return key, durable.Replace(at.path("key"), []byte(secret+"\n"), 0o600)
}

// generateKey returns a new key, whose secret half will be at path, and that half. Without a name it
// generates one.
func generateKey(name, path string) (key keyPair, secret string, err error) {
	if name == "" {
		random := make([]byte, 4)
		rand.Read(random)
		name = "assay-" + hex.EncodeToString(random)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r == '+' || unicode.IsSpace(r) }) {
		return keyPair{}, "", fmt.Errorf("name %q of a new log is not host[/path] without + and spaces", name) // both separate the parts of a key
	}
	if secret, _, err = note.GenerateKey(rand.Reader, name); err != nil {
		return keyPair{}, "", err
	}
	if key, err = parseKey(path, secret); err != nil {
		return keyPair{}, "", fmt.Errorf("name %q of a new log: %w", name, err)
	}
	return key, secret, nil
}

// createEntries makes an empty file of entries and its guards.
func createEntries(at location, key keyPair) error {
	empty, err := newHashTree().at(0)
	if err != nil {
		return err
	}
	entries, err := durable.OpenFile(at.path("entries"), 0o600)
	if err != nil {
		return err
	}
	guards := guards{at: at, key: key.public}
	return errors.Join(entries.Sync(), guards.write(empty, entries, nil), entries.Close())
}

// checkVacant returns an error if there is already something at the place of a new log. Files that
// an interrupted create has left do not count.
func checkVacant(ctx context.Context, at location, name string) error {
	for _, file := range []string{"entries", "heads", "head", "frozen"} {
		info, err := os.Stat(at.path(file))
		if err == nil && info.Size() > 0 {
			return frozen("there is %s but no key; a log cannot go on with a new key: put its key back, or begin a new log in an empty directory",
				at.path(file))
		}
	}
	guards, err := readGuards(at.dir)
	if err != nil {
		return err
	}
	for _, g := range guards {
		if g.err != nil || g.size > 0 {
			return frozen("%s is the guard of a log that is gone: put its files back, or begin a new log in an empty directory", g.path)
		}
	}
	if err := checkStoreVacant(ctx, at, name); err != nil || at.guard == "" {
		return err
	}
	text, err := os.ReadFile(at.guard)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if g, err := decodeGuard(text); err == nil && g.tree.N == 0 && len(guards) > 0 {
		return nil // from this create, or from an interrupted one before it
	}
	return frozen("the guard %s is that of another log, or of one that was here; "+
		"bring that log back, or move the guard away if a new log, with a new key for all clients, is what you want", at.guard)
}

// checkStoreVacant returns an error if the store remembers a log at the place of a new one. A new
// log needs a new name, or its clients stop at its first head.
func checkStoreVacant(ctx context.Context, at location, name string) error {
	if at.store == nil {
		return nil
	}
	g, err := readStoreGuard(ctx, at.store)
	if errors.Is(err, errNoState) {
		if name == "" {
			return nil // the generated name is one that no log had
		}
		old, err := pinnedBy(ctx, at.store, name)
		if err != nil || len(old) == 0 {
			return err
		}
		return frozen("the store has versions that a log called %s pinned, and that log is gone: put it back, or begin a new log under a new name", name)
	}
	if err != nil {
		return err
	}
	if g.tree.N > 0 && (name == "" || name == g.name()) {
		return frozen("the store remembers the log %s of %d entries, and that log is gone: put it back, or begin a new log under a new name, log-name", g.name(), g.tree.N)
	}
	return nil
}
