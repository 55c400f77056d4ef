package vcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// keyless reports whether the repository is reached by SSH and there is no key for its
// host. Such a host is not even connected with: a page may name any.
func (r *goRun) keyless() bool {
	return r.remote().Scheme == "ssh" && (r.auth == nil || r.auth.SSH == nil)
}

// remote returns the URL that git will use: by SSH if that is what there is a key
// for.
func (r *goRun) remote() *url.URL {
	if r.auth == nil || r.auth.SSH == nil {
		return r.repo.url
	}
	if r.repo.url.Scheme == "ssh" && r.repo.url.User != nil {
		return r.repo.url
	}
	u, err := guard.CheckURL("ssh://" + r.auth.SSH.At + r.repo.url.EscapedPath())
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
	conn, addr, err := s.network.ConnectSSH(ctx, u.Hostname(), port, r.job.reach)
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
	return append(options, "-i", r.auth.SSH.File, "-o", "UserKnownHostsFile="+sshQuote(r.auth.SSH.KnownHosts)), nil
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
		return &guard.HostError{Host: u.Host, Err: s.sshTrouble(ctx, r)}
	case errors.As(err, &status):
		return &guard.HostError{Host: u.Host, Err: fmt.Errorf("the host has no such repository, or hides it from this proxy: %w", fs.ErrNotExist)}
	}
	return guard.RequestError(err)
}
