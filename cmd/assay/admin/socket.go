package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
)

// The socket of a running server is in a directory of its own: a socket is created with the
// process's default mode, and would be open to other users until that is changed.
const (
	socketDir  = "admin"
	socketName = "socket"
)

// maxSocketPath is the maximum length of the path of a socket on every system.
const maxSocketPath = 100

// Socket is the socket of a running server. Only the owner can enter its directory.
type Socket struct {
	listener *net.UnixListener
	server   *http.Server
	path     string
}

// Listen creates the socket in the data directory, in place of one that a killed server has left.
// The caller has the store open, so there is no other server.
func Listen(s *Server) (*Socket, error) {
	dir := filepath.Join(s.Data, socketDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if info, err := os.Lstat(dir); err != nil {
		return nil, err
	} else if !info.IsDir() { // a link would make us change the mode of its target
		return nil, fmt.Errorf("%s is no directory; remove it", dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	name, done, err := shortName(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // it knows the short name
	return &Socket{listener, newHTTPServer(s), path}, nil
}

// Serve serves requests until the socket is closed.
func (s *Socket) Serve() error {
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends running requests, and removes the socket.
func (s *Socket) Close() error { return errors.Join(s.server.Close(), os.Remove(s.path)) }

// shortName returns a name for the socket in dir that is short enough for the system. It is valid
// until done is called.
func shortName(dir string) (name string, done func(), err error) {
	name = filepath.Join(dir, socketName)
	if len(name) <= maxSocketPath {
		return name, func() {}, nil
	}
	if runtime.GOOS != "linux" {
		return "", nil, fmt.Errorf("the path %s is too long for a socket; use a data directory with a shorter path", name)
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName), func() { d.Close() }, nil
}

// Dial returns a client of the running server that uses the data directory. If the server does not
// respond, the error says what to do.
func Dial(ctx context.Context, data string) (*Client, error) {
	dial := func(ctx context.Context) (net.Conn, error) {
		name, done, err := shortName(filepath.Join(data, socketDir))
		if err != nil {
			return nil, err
		}
		defer done()
		return new(net.Dialer).DialContext(ctx, "unix", name)
	}
	conn, err := dial(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("a server is using %s, and only its user may ask it: %w; run this command as that user, or as root", data, err)
	case err != nil:
		return nil, fmt.Errorf("another process is using %s, and it does not answer: %w; "+
			"it may be a server that runs with --read-only, is just starting or is older, or another command; stop it, or wait until it has ended", data, err)
	}
	_ = conn.Close() // it only showed whether there is a server
	return newClient(dial, func() error { return nil }), nil
}
