package credential

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/crypto/ssh"
)

// Key is a private key for SSH.
type Key struct {
	File       string // absolute
	KnownHosts string // file with the keys of hosts, absolute
	At         string // user@host or user@host:port
}

// complete makes the file names absolute, because commands run elsewhere, and returns an
// error if ssh could not use the key without a prompt.
func (k *Key) complete() error {
	for _, file := range []*string{&k.File, &k.KnownHosts} {
		absolute, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		*file = absolute
	}
	data, err := readKey(k.File)
	if err != nil {
		return err
	}
	var passphrase *ssh.PassphraseMissingError
	if _, err := ssh.ParseRawPrivateKey(data); errors.As(err, &passphrase) {
		return fmt.Errorf("%s has a passphrase, which a server cannot type; remove it with ssh-keygen -p", k.File)
	} else if err != nil {
		return fmt.Errorf("%s has no usable private key: %w", k.File, err)
	}
	return nil
}

// Signer reads the key.
func (k *Key) Signer() (ssh.Signer, error) {
	data, err := readKey(k.File)
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(data)
}

// readKey reads a private key. Like ssh, it lets the group of a file read it only if the file belongs to
// another user: a container gets its secrets from root that way.
func readKey(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if ownedByOther(info) {
		return readSecret(name, 0o027)
	}
	return readSecret(name, 0o077)
}

// readSecret reads a file that only its owner, and perhaps its group, may read. bad are
// the permissions that it must not have.
func readSecret(name string, bad fs.FileMode) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&bad != 0 {
		return nil, fmt.Errorf("%s has permissions %#o, so other users can read or change a secret; run: chmod %#o %s", name, mode, mode&^bad, name)
	}
	if info.Size() > 1<<20 {
		return nil, fmt.Errorf("%s is too large for a secret", name)
	}
	return os.ReadFile(name)
}
