package pinlog

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/sumdb"
)

// keyPair is the key of a log.
type keyPair struct {
	public   string // verifier key
	verifier note.Verifier
	signer   note.Signer // nil without the secret half
}

func (k keyPair) name() string { return k.verifier.Name() }

// checkName returns an error if the administrator has configured a name, and the log has another
// one.
func (k keyPair) checkName(want string) error {
	if want != "" && want != k.name() {
		return fmt.Errorf("the log here has the name %q, not %q: its name is in each of its signatures, so a new name is a new log; "+
			"keep the name, or give the new log a directory of its own", k.name(), want)
	}
	return nil
}

// readPublicKey reads the public half of the key of an existing log.
func readPublicKey(at location) (keyPair, error) {
	text, err := os.ReadFile(at.path("key.pub"))
	if _, secret := os.Stat(at.path("key")); errors.Is(err, fs.ErrNotExist) && secret == nil {
		return keyPair{}, frozen("%s is gone; to open the log for more than reading writes it again", at.path("key.pub"))
	}
	if err != nil {
		return keyPair{}, err
	}
	key := string(bytes.TrimSuffix(text, []byte("\n")))
	verifier, err := sumdb.NewVerifier(key)
	return keyPair{public: key, verifier: verifier}, err
}

// readKey reads both halves from the file at path. The error is fs.ErrNotExist if there is no key.
func readKey(path string) (keyPair, error) {
	secret, err := os.ReadFile(path)
	if err != nil {
		return keyPair{}, err
	}
	return parseKey(path, string(bytes.TrimSuffix(secret, []byte("\n"))))
}

// parseKey returns the key with the given secret half, which is at path. No error contains it.
func parseKey(path, secret string) (keyPair, error) {
	signer, err := note.NewSigner(secret)
	if err != nil {
		return keyPair{}, fmt.Errorf("%s is no signer key", path)
	}
	public, err := publicHalf(secret, signer)
	if err != nil {
		return keyPair{}, fmt.Errorf("%s: %w", path, err)
	}
	verifier, err := sumdb.NewVerifier(public)
	return keyPair{public, verifier, signer}, err
}

// publicHalf computes the verifier key of secret: PRIVATE+KEY+NAME+HASH+DATA, where the data is an
// algorithm, 1 for Ed25519, and a seed.
func publicHalf(secret string, signer note.Signer) (string, error) {
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

// checkPublicFile compares the key with key.pub, from which administrators copy it, and writes that
// file if it is missing.
func (k keyPair) checkPublicFile(at location) error {
	text, err := os.ReadFile(at.path("key.pub"))
	if errors.Is(err, fs.ErrNotExist) {
		return k.writePublicFile(at)
	}
	if err == nil && string(text) != k.public+"\n" {
		return frozen("%s is not the public half of %s; put back the one that is wrong", at.path("key.pub"), at.path("key"))
	}
	return err
}

func (k keyPair) writePublicFile(at location) error {
	return durable.Replace(at.path("key.pub"), []byte(k.public+"\n"), 0o644)
}
