package vcs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// probeTime is how long a request of our own to an SSH host may take.
const probeTime = 20 * time.Second

// sshClient makes ssh reach a host, and finds out why it does not.
type sshClient struct {
	network  *guard.Network
	programs *programs
	log      *slog.Logger
}

func sshPort(u *url.URL) string { return cmp.Or(u.Port(), "22") }

// options returns the options of ssh for t. The address is one that is allowed and
// accepts connections; the host's key is looked up under its name.
func (c *sshClient) options(ctx context.Context, t target) ([]string, error) {
	u := t.remote()
	port := sshPort(u)
	conn, addr, err := c.network.ConnectSSH(ctx, u.Hostname(), port, t.job.reach)
	if err == nil {
		err = conn.Close()
	}
	if err != nil {
		return nil, &guard.HostError{Host: u.Host, Err: err}
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
	return append(options, "-i", t.auth.SSH.File, "-o", "UserKnownHostsFile="+sshQuote(t.auth.SSH.KnownHosts)), nil
}

// sshQuote quotes a file name for an option of ssh that takes several.
func sshQuote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `\"`) + `"` }

// command returns the value of GIT_SSH_COMMAND, which git passes to a shell.
func (c *sshClient) command(ctx context.Context, t target) (string, error) {
	options, err := c.options(ctx, t)
	if err != nil {
		return "", err
	}
	text := "ssh"
	for _, option := range options {
		text += " '" + strings.ReplaceAll(option, "'", `'\''`) + "'"
	}
	return text, nil
}

// probe asks an SSH host for the repository. The status of ssh says whether ssh failed or
// the host refused, and an advertisement of references proves that the repository exists.
// dir is the directory of the clone.
func (c *sshClient) probe(ctx context.Context, t target, dir string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTime, context.DeadlineExceeded)
	defer cancel()
	options, err := c.options(ctx, t)
	if err != nil {
		return err
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return fmt.Errorf("%w: no ssh in PATH", ErrTools)
	}
	u := t.remote()
	destination := u.Hostname()
	if u.User != nil {
		destination = u.User.Username() + "@" + destination
	}
	if port := u.Port(); port != "" {
		options = append(options, "-p", port)
	}
	args := append(options, "--", destination, "git-upload-pack '"+u.Path+"'") // guard.CheckURL allows no quotes
	out, err := c.programs.run(ctx, command{program: program, args: args, env: c.programs.home.environment(), dir: dir})
	var status *exited
	switch {
	case len(out) > 4+40 && bytes.IndexByte(out, '\n') > 44:
		return nil
	case err == nil:
		return fmt.Errorf("%s does not answer like a repository: %w", u.Host, notfound.Stated)
	case errors.As(err, &status) && status.code == 255:
		return &guard.HostError{Host: u.Host, Err: c.failure(ctx, t)}
	case errors.As(err, &status):
		return &guard.HostError{Host: u.Host, Err: fmt.Errorf("the host has no such repository, or hides it from this proxy: %w", notfound.Stated)}
	}
	return guard.RequestError(err)
}

// failure returns why ssh failed. Its texts are for people, and it has one status for all
// failures, so we connect with the host once more, until it accepts or rejects the key.
func (c *sshClient) failure(ctx context.Context, t target) error {
	u := t.remote()
	signer, err := t.auth.SSH.Signer()
	if err != nil {
		c.log.Error("credential cannot be used", "host", u.Host, "err", err)
		return fmt.Errorf("%w: the credential cannot be read; see the proxy's log", ErrCredential)
	}
	known, err := knownhosts.New(t.auth.SSH.KnownHosts)
	if err != nil {
		c.log.Error("known_hosts cannot be read", "host", u.Host, "err", err)
		return fmt.Errorf("%w: the host's key cannot be checked; see the proxy's log", ErrCredential)
	}
	g := &greeting{host: net.JoinHostPort(u.Hostname(), sshPort(u)), known: known}
	conn, _, err := c.network.ConnectSSH(ctx, u.Hostname(), sshPort(u), t.job.reach)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	return g.meaning(g.greet(conn, u.User.Username(), signer))
}
