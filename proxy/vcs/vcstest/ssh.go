package vcstest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSH is a host that serves the repositories by SSH to one key.
type SSH struct {
	Addr       string // host:port
	KeyFile    string // private key that is accepted
	OtherKey   string // private key that is not
	KnownHosts string // file with the host's key
}

// sshServer serves repositories by SSH.
type sshServer struct {
	repos  string
	config *ssh.ServerConfig
}

// SSH starts the repositories' SSH host, which ends with the test.
func (w *World) SSH() *SSH {
	w.t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		w.t.Skip("there is no ssh")
	}
	s := &SSH{KeyFile: filepath.Join(w.dir, "ssh", "key"), OtherKey: filepath.Join(w.dir, "ssh", "other"), KnownHosts: filepath.Join(w.dir, "ssh", "known_hosts")}
	accepted := newSSHKey(w.t, s.KeyFile)
	newSSHKey(w.t, s.OtherKey)
	host := newSSHKey(w.t, filepath.Join(w.dir, "ssh", "host"))
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(accepted.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	server := &sshServer{w.repos(), config}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { listener.Close() })
	s.Addr = listener.Addr().String()
	writeFile(w.t, s.KnownHosts, []byte(knownhosts.Line([]string{s.Addr}, host.PublicKey())+"\n"), 0o644)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go server.serve(conn)
		}
	}()
	return s
}

func newSSHKey(t T, name string) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, name, pem.EncodeToMemory(block), 0o600)
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// serve answers one connection.
func (s *sshServer) serve(conn net.Conn) {
	defer conn.Close()
	server, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	defer server.Close()
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "")
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		go s.session(channel, requests)
	}
}

// session runs git-upload-pack, and nothing else.
func (s *sshServer) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for request := range requests {
		if request.Type != "exec" {
			_ = request.Reply(request.Type == "env", nil)
			continue
		}
		var command struct{ Line string }
		_ = ssh.Unmarshal(request.Payload, &command)
		path, ok := strings.CutPrefix(command.Line, "git-upload-pack '")
		path, quoted := strings.CutSuffix(path, "'")
		_ = request.Reply(ok && quoted, nil)
		if !ok || !quoted {
			return
		}
		cmd := exec.Command("git", "upload-pack", filepath.Join(s.repos, filepath.FromSlash(path)))
		cmd.Stdout = channel
		in, err := cmd.StdinPipe() // not waited for: the other side keeps it open
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(in, channel)
			_ = in.Close()
		}()
		code := uint32(0)
		if err := cmd.Run(); err != nil {
			code = 128
		}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
		return
	}
}
