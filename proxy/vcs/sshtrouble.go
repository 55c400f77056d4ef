package vcs

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// What ssh says when it gives up is prose, and has one status for everything. So the
// host is greeted once more, by us, as far as to whether it takes the key.

// sshTrouble returns why ssh came to no agreement with the host.
func (s *Source) sshTrouble(ctx context.Context, r *goRun) error {
	signer, err := r.auth.SSH.Signer()
	if err != nil {
		s.log.Error("credential cannot be used", "host", r.remote().Host, "err", err)
		return fmt.Errorf("%w: the credential cannot be read; see the proxy's log", ErrCredential)
	}
	known, err := knownhosts.New(r.auth.SSH.KnownHosts)
	if err != nil {
		s.log.Error("known_hosts cannot be read", "host", r.remote().Host, "err", err)
		return fmt.Errorf("%w: the host's key cannot be checked; see the proxy's log", ErrCredential)
	}
	u := r.remote()
	g := &greeting{host: net.JoinHostPort(u.Hostname(), portOfSSH(u)), known: known}
	conn, _, err := s.network.ConnectSSH(ctx, u.Hostname(), portOfSSH(u), r.job.reach)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	return g.meaning(g.greet(conn, u.User.Username(), signer))
}

// greeting is the beginning of a conversation by SSH.
type greeting struct {
	host  string // host:port, as in known_hosts
	known ssh.HostKeyCallback

	came    bool // to the host's key
	hostKey error
}

// greet begins a conversation, and ends it when the host has taken the key.
func (g *greeting) greet(conn net.Conn, user string, signer ssh.Signer) error {
	config := &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: g.algorithms(),
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			g.came, g.hostKey = true, g.known(g.host, remote, key)
			return g.hostKey
		}}
	client, _, _, err := ssh.NewClientConn(conn, g.host, config)
	if err == nil {
		_ = client.Close() // it has served
	}
	return err
}

// algorithms returns those of the keys in known_hosts, so that a host with several
// keys shows the one that is known; nil, for all, if none is.
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

// meaning says what the end of a greeting means.
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
	case g.came:
		return fmt.Errorf("%w: the host rejected the key in ssh_key", ErrCredential)
	}
	return fmt.Errorf("%w: the SSH handshake failed", ErrUnavailable)
}
