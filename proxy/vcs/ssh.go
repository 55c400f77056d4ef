package vcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/crypto/ssh"
)

// checkSSHKey returns an error if ssh could not use the key without a passphrase.
func (c *Credential) checkSSHKey() error {
	data, err := readSecret(c.SSHKey, 0o077) // ssh itself refuses anything else
	if err != nil {
		return err
	}
	var passphrase *ssh.PassphraseMissingError
	if _, err := ssh.ParseRawPrivateKey(data); errors.As(err, &passphrase) {
		return fmt.Errorf("%s has a passphrase, which a server cannot type; remove it with ssh-keygen -p", c.SSHKey)
	} else if err != nil {
		return fmt.Errorf("%s has no usable private key: %w", c.SSHKey, err)
	}
	return nil
}

// keyless reports whether the repository is reached by SSH and there is no key for its
// host. Such a host is not even connected with: a page may name any.
func (r *goRun) keyless() bool {
	return r.remote().Scheme == "ssh" && (r.auth == nil || r.auth.ssh == nil)
}

// remote returns the URL that git will use: by SSH if that is what there is a key
// for.
func (r *goRun) remote() *url.URL {
	if r.auth == nil || r.auth.ssh == nil {
		return r.repo.url
	}
	if r.repo.url.Scheme == "ssh" && r.repo.url.User != nil {
		return r.repo.url
	}
	u, err := checkURL("ssh://" + r.auth.ssh.SSH + r.repo.url.EscapedPath())
	if err != nil { // both parts were checked
		return r.repo.url
	}
	return u
}

func portOfSSH(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return "22"
}

// sshOptions returns the options of ssh for a run. The address is one that is
// allowed and answers; the host's key is looked for under its name.
func (s *Source) sshOptions(ctx context.Context, r *goRun) ([]string, error) {
	u := r.remote()
	port := portOfSSH(u)
	addr, err := s.reachable(ctx, u.Hostname(), port, r.job.reach)
	if err != nil {
		return nil, &hostError{u.Host, err}
	}
	alias := u.Hostname()
	if port != "22" {
		alias = "[" + alias + "]:" + port
	}
	options := []string{
		"-F", os.DevNull, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no", "-o", "ControlMaster=no",
		"-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "ForwardAgent=no", "-o", "ClearAllForwardings=yes",
		"-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes", "-o", "PreferredAuthentications=publickey", "-o", "LogLevel=ERROR",
		"-o", "HostName=" + addr.String(), "-o", "HostKeyAlias=" + alias, "-o", "GlobalKnownHostsFile=" + os.DevNull,
	}
	return append(options, "-i", r.auth.ssh.SSHKey, "-o", "UserKnownHostsFile="+sshQuote(r.auth.ssh.KnownHosts)), nil
}

// sshQuote quotes a file name for an option of ssh that takes several.
func sshQuote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `\"`) + `"` }

// sshCommand returns the value of GIT_SSH_COMMAND, which git gives to a shell.
func (s *Source) sshCommand(ctx context.Context, r *goRun) (string, error) {
	options, err := s.sshOptions(ctx, r)
	if err != nil {
		return "", err
	}
	command := "ssh"
	for _, option := range options {
		command += " '" + strings.ReplaceAll(option, "'", `'\''`) + "'"
	}
	return command, nil
}

// reachable returns an address of the host that is allowed and takes connections.
func (s *Source) reachable(ctx context.Context, host, port string, reach Reach) (netip.Addr, error) {
	conn, addr, err := s.dialSSH(ctx, host, port, reach)
	if err != nil {
		return addr, err
	}
	return addr, conn.Close()
}

// dialSSH connects with an address of the host that is allowed.
func (s *Source) dialSSH(ctx context.Context, host, port string, reach Reach) (conn net.Conn, addr netip.Addr, err error) {
	addrs, err := s.network.addresses(ctx, host, port, reach)
	if err != nil {
		return nil, addr, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialTime, context.DeadlineExceeded)
	defer cancel()
	if conn, addr, err = s.network.dialAny(ctx, addrs, port); err != nil {
		err = &unreachableError{err}
	}
	return conn, addr, err
}

// probeSSH asks an SSH host for the repository. The status of ssh says whether it
// was ssh or the other side that gave up, and an advertisement of references that
// the repository is there.
func (s *Source) probeSSH(ctx context.Context, r *goRun) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTime, context.DeadlineExceeded)
	defer cancel()
	options, err := s.sshOptions(ctx, r)
	if err != nil {
		return err
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return fmt.Errorf("%w: no ssh in PATH", ErrTools)
	}
	u := r.remote()
	destination := u.Hostname()
	if u.User != nil {
		destination = u.User.Username() + "@" + destination
	}
	if port := u.Port(); port != "" {
		options = append(options, "-p", port)
	}
	args := append(options, "--", destination, "git-upload-pack '"+u.Path+"'") // checkURL lets no quote through
	out, err := s.exec(ctx, program, args, s.baseEnvironment(), r.dir)
	var status *exited
	switch {
	case len(out) > 4+40 && bytes.IndexByte(out, '\n') > 44:
		return nil
	case err == nil:
		return fmt.Errorf("%s does not answer like a repository: %w", u.Host, fs.ErrNotExist)
	case errors.As(err, &status) && status.code == 255:
		return &hostError{u.Host, s.sshTrouble(ctx, r)}
	case errors.As(err, &status):
		return &hostError{u.Host, fmt.Errorf("the host has no such repository, or hides it from this proxy: %w", fs.ErrNotExist)}
	}
	return networkError(err)
}
