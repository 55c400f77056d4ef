package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// sockets are the listening sockets that a service manager has opened for this process, by the name
// of the setting whose address each replaces. They stay open when the process ends, so that clients
// wait for the next one.
type sockets map[string]net.Listener

// passedSockets takes the sockets of the process. A socket with the name metrics-listen
// (FileDescriptorName= of systemd) is for that setting, each other one for listen.
func passedSockets() (sockets, error) {
	passed := sockets{}
	for _, file := range activation.Files(true) {
		setting := "listen"
		if file.Name() == "metrics-listen" {
			setting = file.Name()
		}
		l, err := net.FileListener(file)
		file.Close() // the listener has its own descriptor
		if err != nil {
			return nil, fmt.Errorf("the socket %s of the service manager: %w", file.Name(), err)
		}
		if other := passed[setting]; other != nil {
			return nil, fmt.Errorf("the service manager passes two sockets for %s, %s and %s; give it one", setting, other.Addr(), l.Addr())
		}
		passed[setting] = l
	}
	return passed, nil
}

// open returns the socket for a setting, and opens the setting's address if there is none.
func (s sockets) open(setting, address string, log *slog.Logger) (net.Listener, error) {
	if l := s[setting]; l != nil {
		log.Info("the service manager's socket is used instead of the setting", "setting", setting, "value", address, "socket", l.Addr().String())
		return l, nil
	}
	return openListener(setting, address)
}

// tellManager sends assignments of systemd's sd_notify protocol to the service manager that has
// started the program. It does nothing if there is none.
func tellManager(log *slog.Logger, assignments ...string) {
	if _, err := systemd.SdNotify(false, strings.Join(assignments, "\n")); err != nil {
		log.Warn("the service manager cannot be told", "what", assignments, "err", err)
	}
}

// extension returns the assignment that lets a start or a stop continue for so long from now, even
// if the service manager's limit for it is shorter.
func extension(d time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds())
}

// serving returns the assignment of the status of a program that serves.
func serving(addr net.Addr) string { return "STATUS=serving on " + addr.String() }

// supervised is the program as its service manager sees it.
type supervised struct {
	ready *readiness
	addr  net.Addr // on which it listens
	url   string   // of its own /readyz; the host does not matter
	log   *slog.Logger
}

// run tells the service manager when requests can be answered, and from then on, if it has asked for
// that with WATCHDOG_USEC, as long as the program responds. It returns when ctx ends: from then on
// the manager limits the time of the stop.
func (s *supervised) run(ctx context.Context) {
	for s.ready.check(ctx) != nil {
		if !pause(ctx, time.Second) {
			return
		}
	}
	tellManager(s.log, systemd.SdNotifyReady, serving(s.addr))
	limit, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("no watchdog", "err", err)
		return
	}
	for limit > 0 && pause(ctx, limit/3) { // so that two thirds are left for several requests
		for s.ask(ctx, limit/6) != nil && pause(ctx, limit/60) {
		}
		if ctx.Err() == nil {
			tellManager(s.log, systemd.SdNotifyWatchdog)
		}
	}
}

// ask is respond, and logs an error.
func (s *supervised) ask(ctx context.Context, limit time.Duration) error {
	err := s.respond(ctx, limit)
	if err != nil && ctx.Err() == nil {
		s.log.Error("no response to a request for the watchdog of the service manager", "err", err)
	}
	return err
}

// respond sends a request to the program itself, as a client does. Each response counts, also one
// that says that too many connections are open, and a connection that the program accepts and closes:
// it is then busy, and a restart would not help.
func (s *supervised) respond(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	connected := false
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, s.addr.Network(), s.addr.String())
			connected = err == nil
			return conn, err
		},
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the certificate is for another name, and nothing is secret
		DisableKeepAlives: true,
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(r)
	if err != nil && connected && ctx.Err() == nil {
		return nil // the kernel accepts a connection by itself, but does not close it
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// errNoMetricsListen means that there is a socket without a use.
var errNoMetricsListen = errors.New("the service manager passes a socket for metrics-listen, which is not set; set it to the address of the socket")
