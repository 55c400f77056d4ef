//go:build unix

package main_test

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

// socketFile returns a listening socket as systemd opens it.
func socketFile(t *testing.T, network, address string) (addr net.Addr, file *os.File) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if network == "unix" {
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		file, err = l.(*net.UnixListener).File()
	} else {
		file, err = l.(*net.TCPListener).File()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return l.Addr(), file
}

// passedLog returns the log of a program that has started and stopped with a socket of the service manager.
func passedLog(t *testing.T, file *os.File, args ...string) string {
	t.Helper()
	cmd := passSockets(t, "assay.socket", []*os.File{file}, append([]string{"--data", t.TempDir()}, args...)...)
	startCommand(t, cmd)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil { // until the whole log is read
		t.Error(err)
	}
	return cmd.Stderr.(*assaytest.Output).String()
}

// Warnings about what clients can read are about the socket that is used, and not about the setting
// that it replaces.
func TestPassedSocketAccess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "assay.sock")
	const warning = "every client that reaches this address can read these private modules"
	for _, test := range []struct {
		network, address, setting string
		warns                     bool
	}{
		{"tcp", "0.0.0.0:0", "localhost:3000", true},
		{"tcp", "0.0.0.0:0", "unix:/run/assay.sock", true},
		{"tcp", "127.0.0.1:0", ":3000", false},
		{"unix", path, ":3000", false},
	} {
		addr, file := socketFile(t, test.network, test.address)
		log := passedLog(t, file, "--listen", test.setting, "--private", "corp.example")
		if strings.Contains(log, warning) != test.warns || test.warns && !strings.Contains(log, "listen="+addr.String()) {
			t.Errorf("listen %s is replaced by %s, and the log is\n%s", test.setting, addr, log)
		}
	}
}

// A socket of the service manager that other users can open makes each of them a reverse proxy.
func TestPassedSocketMode(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	for mode, warns := range map[os.FileMode]bool{0o666: true, 0o662: true, 0o660: false, 0o600: false, 0o664: false} {
		path := filepath.Join(dir, mode.String())
		_, file := socketFile(t, "unix", path)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		log := passedLog(t, file)
		if strings.Contains(log, "SocketMode=0660") != warns || warns && !strings.Contains(log, "count as a reverse proxy") {
			t.Errorf("a socket with mode %v, and the log is\n%s", mode, log)
		}
	}
	path := filepath.Join(dir, "removed")
	_, file := socketFile(t, "unix", path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if log := passedLog(t, file); !strings.Contains(log, "it is unknown which users can connect") {
		t.Errorf("the path of the socket is gone, and the log is\n%s", log)
	}
	if runtime.GOOS == "linux" {
		_, file := socketFile(t, "unix", "@"+path)
		if log := passedLog(t, file); !strings.Contains(log, "instead of an abstract socket") {
			t.Errorf("the socket has no path, and the log is\n%s", log)
		}
	}
}

// shortDir returns a directory whose path is short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
