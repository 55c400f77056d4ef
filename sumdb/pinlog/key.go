package pinlog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/mod/sumdb/note"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// openKey locks the log and reads its key. If there is no log, it makes one, if
// it may. The error is fs.ErrNotExist if there is none and there must be.
func (l *Log) openKey(ctx context.Context, mayMake bool) error {
	if l.config.ReadOnly {
		text, err := os.ReadFile(l.path("key.pub"))
		if _, there := os.Stat(l.path("key")); errors.Is(err, fs.ErrNotExist) && there == nil {
			return frozen("%s is gone; to open the log for more than reading writes it again", l.path("key.pub"))
		}
		if err != nil {
			return err
		}
		return l.setKey(string(bytes.TrimSuffix(text, []byte("\n"))))
	}
	if mayMake {
		if err := durable.MakeDir(l.config.Dir, 0o700); err != nil {
			return err
		}
	}
	if err := l.takeLock(); err != nil {
		return err
	}
	secret, err := os.ReadFile(l.path("key"))
	switch {
	case errors.Is(err, fs.ErrNotExist) && mayMake:
		return l.makeLog(ctx)
	case err != nil:
		return err
	}
	if err := l.setSecret(string(bytes.TrimSuffix(secret, []byte("\n")))); err != nil {
		return err
	}
	return l.checkPublicKey()
}

func (l *Log) takeLock() error {
	f, err := os.OpenFile(l.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := lockSoon(f); err != nil {
		return errors.Join(fmt.Errorf("%s: %w; stop that process, or open the log read-only", f.Name(), err), f.Close())
	}
	l.lock = f
	return nil
}

// lockWait is how long another holder of the lock may take to let go of it, as long as the
// store waits for the same. A process that starts a command shares the lock with it
// until the command runs, so the lock outlives its Close by that moment.
const lockWait = time.Second

// lockSoon is lockFile, tried for lockWait.
func lockSoon(f *os.File) error {
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if err := lockFile(f); !errors.Is(err, storage.ErrInUse) || time.Since(begin) > lockWait {
			return err
		}
	}
}

// setKey makes key the verifier key of the log.
func (l *Log) setKey(key string) error {
	verifier, err := sumdb.NewVerifier(key)
	if err != nil {
		return err
	}
	if name := l.config.Name; name != "" && name != verifier.Name() {
		return fmt.Errorf("the log here has the name %q, not %q: its name is in each of its signatures, so a new name is a new log; "+
			"keep the name, or give the new log a directory of its own", verifier.Name(), name)
	}
	l.key, l.verifier = key, verifier
	return nil
}

// setSecret makes secret the key that signs. No error shows it.
func (l *Log) setSecret(secret string) error {
	signer, err := note.NewSigner(secret)
	if err != nil {
		return fmt.Errorf("%s is no signer key", l.path("key"))
	}
	key, err := verifierKey(secret, signer)
	if err != nil {
		return fmt.Errorf("%s: %w", l.path("key"), err)
	}
	l.signer = signer
	return l.setKey(key)
}

// verifierKey makes the public half of secret: PRIVATE+KEY+NAME+HASH+DATA, where
// the data is an algorithm, 1 for Ed25519, and a seed.
func verifierKey(secret string, signer note.Signer) (string, error) {
	fields := strings.SplitN(secret, "+", 5) // base64 has + too
	data, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(data) != 1+ed25519.SeedSize {
		return "", errors.New("no Ed25519 key")
	}
	public, ok := ed25519.NewKeyFromSeed(data[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("no Ed25519 key")
	}
	return note.NewEd25519VerifierKey(signer.Name(), public)
}

// checkPublicKey compares the key with the file that tells it to people. It is
// written if it is gone.
func (l *Log) checkPublicKey() error {
	text, err := os.ReadFile(l.path("key.pub"))
	if errors.Is(err, fs.ErrNotExist) {
		return l.writePublicKey()
	}
	if err == nil && string(text) != l.key+"\n" {
		return frozen("%s is not the public half of %s; put back the one that is wrong", l.path("key.pub"), l.path("key"))
	}
	return err
}

func (l *Log) writePublicKey() error {
	return durable.Replace(l.path("key.pub"), []byte(l.key+"\n"), 0o644)
}

// makeLog makes an empty log with a new key. The key comes last: as long as it is
// not there nothing can be signed, and all else is made anew. So a key without a
// guard is a key that was put beside an empty log, which must refuse.
func (l *Log) makeLog(ctx context.Context) error {
	if err := l.checkVacant(ctx); err != nil {
		return err
	}
	name := l.config.Name
	if name == "" {
		random := make([]byte, 4)
		rand.Read(random)
		name = "assay-" + hex.EncodeToString(random)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r == '+' || unicode.IsSpace(r) }) {
		return fmt.Errorf("name %q of a new log is not host[/path] without + and spaces", name) // which separate the parts of a key
	}
	secret, _, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return err
	}
	if err := l.setSecret(secret); err != nil {
		return fmt.Errorf("name %q of a new log: %w", name, err)
	}
	empty, err := newHashTree().at(0)
	if err != nil {
		return err
	}
	entries, err := os.OpenFile(l.path("entries"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(entries.Sync(), l.writeGuards(empty, entries), entries.Close())
	if err != nil {
		return err
	}
	if err := l.writePublicKey(); err != nil {
		return err
	}
	return durable.Replace(l.path("key"), []byte(secret+"\n"), 0o600)
}

// checkVacant says whether there is something where a new log shall be. What the
// creation of a log leaves behind when it is interrupted is nothing.
func (l *Log) checkVacant(ctx context.Context) error {
	for _, name := range []string{"entries", "heads", "head", "frozen"} {
		info, err := os.Stat(l.path(name))
		if err == nil && info.Size() > 0 {
			return frozen("there is %s but no key; a log cannot go on with a new key: put its key back, or begin a new log in an empty directory",
				l.path(name))
		}
	}
	marks, err := readMarks(l.config.Dir)
	if err != nil {
		return err
	}
	for _, m := range marks {
		if m.err != nil || m.size > 0 {
			return frozen("%s is the guard of a log that is gone: put its files back, or begin a new log in an empty directory", m.path)
		}
	}
	if err := l.checkStoreVacant(ctx); err != nil || l.config.Guard == "" {
		return err
	}
	text, err := os.ReadFile(l.config.Guard)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if g, err := decodeGuard(text); err == nil && g.tree.N == 0 && len(marks) > 0 {
		return nil // of the same creation, or of one before it that was interrupted too
	}
	return frozen("the guard %s is that of another log, or of one that was here; "+
		"bring that log back, or move the guard away if a new log, with a new key for all clients, is what you want", l.config.Guard)
}
