package vcs_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/crypto/ssh"
)

// encryptedKey returns the name of a private key with a passphrase.
func encryptedKey(t *testing.T) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	return writeSecret(t, "encrypted", string(pem.EncodeToMemory(block)))
}

// isTimeout reports whether err says that it took too long, and not that there is
// no module.
func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, fs.ErrNotExist)
}
