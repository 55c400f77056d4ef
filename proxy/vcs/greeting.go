package vcs

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// greeting is the beginning of an SSH connection.
type greeting struct {
	host  string // host:port, as in known_hosts
	known ssh.HostKeyCallback

	keySeen bool // the host has sent its key
	hostKey error
}

// greet connects, and ends the connection when the host has accepted the key.
func (g *greeting) greet(conn net.Conn, user string, signer ssh.Signer) error {
	config := &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: g.algorithms(),
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			g.keySeen, g.hostKey = true, g.known(g.host, remote, key)
			return g.hostKey
		}}
	client, _, _, err := ssh.NewClientConn(conn, g.host, config)
	if err == nil {
		_ = client.Close()
	}
	return err
}

// algorithms returns those of the keys in known_hosts, so that a host with several keys
// uses the known one; nil, for all algorithms, if none is known.
func (g *greeting) algorithms() (all []string) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil
	}
	unknown, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil
	}
	var mismatch *knownhosts.KeyError
	if !errors.As(g.known(g.host, &net.TCPAddr{IP: net.IPv4zero}, unknown), &mismatch) {
		return nil
	}
	for _, want := range mismatch.Want {
		kind := want.Key.Type()
		if kind == ssh.KeyAlgoRSA {
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01)
		}
		all = append(all, kind, kind+"-cert-v01@openssh.com")
	}
	return all
}

// meaning returns the meaning of the error of greet.
func (g *greeting) meaning(err error) error {
	var (
		mismatch *knownhosts.KeyError
		nothing  *ssh.AlgorithmNegotiationError
	)
	switch {
	case err == nil:
		return fmt.Errorf("%w: the transfer was interrupted", ErrUnavailable)
	case errors.As(g.hostKey, &mismatch) && len(mismatch.Want) == 0:
		return fmt.Errorf("%w: the host's key is unknown; if it is correct, add it to known_hosts", ErrCredential)
	case g.hostKey != nil, errors.As(err, &nothing):
		return fmt.Errorf("%w: the host's key differs from the one in known_hosts; this may be an attack", ErrCredential)
	case g.keySeen:
		return fmt.Errorf("%w: the host rejected the key in ssh_key", ErrCredential)
	}
	return fmt.Errorf("%w: the SSH handshake failed", ErrUnavailable)
}
