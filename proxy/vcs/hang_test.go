package vcs_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// A host that hangs takes the time for a command, and no process stays.
func TestHang(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	w.Hang(true)
	s := newSource(t, w, func(c *vcs.Config) { c.Timeout = 4 * time.Second })
	begin := time.Now()
	s.wantError("corp.example/hello", "v1.0.0", context.DeadlineExceeded)
	if took := time.Since(begin); took > 12*time.Second {
		t.Errorf("it took %v", took)
	}
	waitFor(t, "the end of all processes", func() bool { return len(running(t, s.dir)) == 0 })
	// Other hosts are not delayed.
	w.Hang(false)
	waitFor(t, "a host that is back", func() bool {
		_, _, err := s.download("corp.example/hello", "v1.0.0")
		return err == nil
	})
}

// A question at a host that hangs continues when its caller has left, until Close. Later ones are
// refused.
func TestCloseEndsQuestions(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	w.Hang(true)
	s := newSource(t, w, func(c *vcs.Config) { c.Timeout = time.Hour })
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		defer leave()
		waitFor(t, "a command", func() bool { return len(running(t, s.dir)) > 0 })
	}()
	if _, err := s.Query(ctx, "corp.example/hello", "main", vcs.Private); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left: %v", err)
	}
	if len(running(t, s.dir)) == 0 {
		t.Error("the question has ended with its caller")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	waitFor(t, "the end of all processes", func() bool { return len(running(t, s.dir)) == 0 })
	if _, err := s.Query(t.Context(), "corp.example/hello", "main", vcs.Private); !errors.Is(err, flight.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A host that never ends a connection does not keep it open when git has ended.
func TestHangingConnections(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	silent := listen(t, func(conn net.Conn) { <-t.Context().Done(); conn.Close() })
	var open atomic.Int32
	s := newSource(t, w, func(c *vcs.Config) {
		c.Timeout = 2 * time.Second
		c.Network.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			if host == vcstest.GitHost {
				return []netip.Addr{netip.MustParseAddr("198.51.100.2")}, nil
			}
			return w.Lookup(ctx, host)
		}
		c.Network.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "198.51.100.2:443" {
				return w.Dial(ctx, network, address)
			}
			conn, err := new(net.Dialer).DialContext(ctx, network, silent)
			if err != nil {
				return nil, err
			}
			open.Add(1)
			return &tracked{TCPConn: conn.(*net.TCPConn), closed: sync.OnceFunc(func() { open.Add(-1) })}, nil
		}
	})
	s.wantError("corp.example/hello", "v1.0.0", context.DeadlineExceeded)
	waitFor(t, "the end of all connections", func() bool { return open.Load() == 0 })
}

// An address that does not answer costs little if another one does.
func TestSilentAddress(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	var silent atomic.Int32
	s := newSource(t, w, func(c *vcs.Config) {
		c.Network.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			addrs, err := w.Lookup(ctx, host)
			return append([]netip.Addr{netip.MustParseAddr("2001:db8::1")}, addrs...), err
		}
		c.Network.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "[2001:db8::1]:443" {
				return w.Dial(ctx, network, address)
			}
			silent.Add(1)
			defer silent.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	begin := time.Now()
	s.want("corp.example/hello", "v1.0.0")
	if took := time.Since(begin); took > 7*time.Second { // less than one try may take
		t.Errorf("it took %v", took)
	}
	waitFor(t, "the end of all tries", func() bool { return silent.Load() == 0 })
}

// tracked is a connection that reports when it is closed.
type tracked struct {
	*net.TCPConn
	closed func()
}

func (c *tracked) Close() error {
	c.closed()
	return c.TCPConn.Close()
}

// process is a process that a Source has started.
type process struct {
	pid, group int
	args       string // joined by spaces
}

// running returns the processes of the Source with the directory dir, in any state.
func running(t *testing.T, dir string) (all []process) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		environment, err := os.ReadFile(filepath.Join(name, "environ"))
		if err != nil || !strings.Contains(string(environment), dir) {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(name, "cmdline"))
		stat, _ := os.ReadFile(filepath.Join(name, "stat"))
		p := process{args: strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))}
		p.pid, _ = strconv.Atoi(filepath.Base(name))
		// pid (name) state parent group
		if fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); len(fields) > 2 {
			p.group, _ = strconv.Atoi(fields[2])
		}
		all = append(all, p)
	}
	return all
}

// A host that accepts the connection and does not answer takes the time for a command.
func TestSSHHangs(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	host := w.SSH()
	host.Addr = listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	s := newSource(t, w, func(c *vcs.Config) {
		bySSH(host)(c)
		c.Timeout = 2 * time.Second
	})
	begin := time.Now()
	s.wantError("corp.example/hello", "v1.0.0", context.DeadlineExceeded)
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	waitFor(t, "the end of all processes", func() bool { return len(running(t, s.dir)) == 0 })
}

// While a command hangs, no argument of its processes has a secret in it. They are one
// process group, of which none is left when the time is over.
func TestHangingProcesses(t *testing.T) {
	t.Parallel()
	w := vcstest.New(t)
	w.Module("hello", hello)
	w.Password("ci", "s3cret")
	w.Hang(true)
	s := newSource(t, w, func(c *vcs.Config) {
		c.Credentials = []vcs.Credential{forGit("ci", writeSecret(t, "token", "s3cret"))}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		done <- s.Download(ctx, module.Version{Path: "corp.example/hello", Version: "v1.0.0"}, vcs.Private, func(vcs.Files) error { return nil })
	}()
	var seen []process
	waitFor(t, "git that asks the host", func() bool {
		seen = append(seen, running(t, s.dir)...)
		return slices.ContainsFunc(seen, func(p process) bool { return strings.Contains(p.args, "remote-https") })
	})
	groups := map[int]bool{}
	for _, p := range seen {
		groups[p.group] = true
		if strings.Contains(p.args, "s3cret") || strings.Contains(p.args, "assay:") || strings.Contains(p.args, "Basic") {
			t.Errorf("in the arguments of a process: %s", p.args)
		}
	}
	if len(groups) != 1 || groups[os.Getpid()] {
		t.Errorf("process groups %v, want one of their own: %+v", groups, seen)
	}
	cancel(context.DeadlineExceeded)
	if err := <-done; !isTimeout(err) {
		t.Errorf("%v", err)
	}
	waitFor(t, "the end of all processes", func() bool { return len(running(t, s.dir)) == 0 })
	s.keepsSecrets("s3cret")
}
