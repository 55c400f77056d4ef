// Package daemon is assay serve: it makes the parts of the program from the settings,
// wires them, and owns what is in front of them: connections, TLS, authentication,
// webhooks, logs, metrics, the limit of memory, reloads and the end.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Options are what the daemon does not know by itself.
type Options struct {
	Load     func() (config.Config, config.Sources, error) // reads the settings, at each reload again
	Version  string                                        // of the program
	Out, Err io.Writer                                     // for the announcement, and for the log
}

// server is the running program: what serve has wired together.
type server struct {
	Options
	config   config.Config // as it was at the start; reloadOn knows what is in force
	log      *logger
	door     *door
	store    storage.Store
	upstream atomic.Pointer[upstream]
	private  atomic.Pointer[privacy.Policy] // in force
	mirrors  []*sumdb.Mirror
	ownLog   *pinlog.Log
	vcs      *vcs.Source // nil if no module needs it
	access   *access.Authenticator
	tls      *certificates // nil: plain http
	proxy    *proxy.Server

	memory     shares
	hookSecret string        // "" if there are no webhooks
	hooks      chan struct{} // a place for each that is read
	largeHook  chan struct{} // a place for the one that is large

	registry *prometheus.Registry
	self     string // our Via name
	reloads  *reloadMetrics
	ready    atomic.Bool
}

// Run serves until ctx ends, and stops in good order.
func Run(ctx context.Context, o Options) error {
	c, from, err := o.Load()
	if err != nil {
		return err
	}
	// A reader of standard output or error that ends is no reason to end, too. It is not
	// ignored, because the commands that are run would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	s := &server{Options: o, config: c, log: newLogger(o.Err, c), self: viaName()}
	defer s.log.Close()
	slog.SetDefault(s.log.Logger)     // net/http's own words about an upstream go to package log
	hangup := make(chan os.Signal, 1) // from here on, so that one which comes early does not end the program
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	listener, err := listen(c.Listen)
	if err != nil {
		return err
	}
	s.door = newDoor(listener, descriptorLimit(), s.log.Logger)
	defer s.door.Close()
	if err := s.open(ctx, from, listener.Addr()); err != nil {
		return err
	}
	defer s.close()
	s.door.room = s.newRoom()
	s.limitMemory(containerMemory("/")) // when all that is always there is there
	s.logStart(from)
	defer s.announce(o.Out, s.scheme()+"://"+clientAddr(listener.Addr()))()
	return s.run(ctx, s.door, hangup)
}

// announce says where we serve: to the reader of a log that is JSON, there, else to the
// person at standard output. What it returns ends the announcement.
func (s *server) announce(out io.Writer, url string) (end func()) {
	if s.config.LogFormat == "json" {
		s.log.Info("serving", "url", url)
		return func() {}
	}
	queue := newLogQueue(out, nil) // standard output may be a full pipe as well
	fmt.Fprintf(queue.writer(rankWarning), "Assay serves %s\nConfigure the go command: go env -w GOPROXY=%s\n", url, url)
	return queue.Close
}

func listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use, possibly by another assay; choose another address with --listen", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}

// clientAddr returns how a client on this machine calls addr.
func clientAddr(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.String()
	}
	if tcp.IP.IsUnspecified() || tcp.IP.IsLoopback() {
		return fmt.Sprintf("localhost:%d", tcp.Port)
	}
	return tcp.String()
}

// open makes the parts, lowest first.
func (s *server) open(ctx context.Context, from config.Sources, addr net.Addr) (err error) {
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	c := s.config
	s.memory = divide(c.MemoryBudget)
	private, err := policyOf(c)
	if err != nil {
		return err
	}
	s.private.Store(private)
	if err := checkCredentials(c); err != nil { // also where nothing needs them yet: a reload may
		return err
	}
	if err := s.openFront(ctx); err != nil {
		return err
	}
	up, err := s.newUpstream(c, from, addr)
	if err != nil {
		return err
	}
	s.upstream.Store(up)
	store, err := bolt.Open(c.Data, &bolt.Options{Logger: s.log.Logger, Readers: s.memory.answers, Writers: s.memory.store})
	if err != nil {
		return err
	}
	s.store = store
	if s.mirrors, err = s.openMirrors(ctx); err != nil {
		return err
	}
	source, err := s.openVCS(c, up.chain.Direct())
	if err != nil {
		return err
	}
	if err := s.openLog(ctx, private); err != nil { // last, because its name is made for ever
		return err
	}
	s.proxy, err = proxy.New(proxy.Config{
		Store: s.store, Upstream: up.chain, Policy: private, Databases: s.mirrors,
		VCS: source, Log: s.ownLog, Unified: c.Unified, Access: s.access, Remote: s.remote,
		Spool: filepath.Join(c.Data, "spool"), Evidence: filepath.Join(c.Data, "evidence"),
		Answer: c.AnswerTimeout, Fresh: c.Fresh, Stale: c.Stale, Fills: c.Fills, ZipFills: c.ZipFills,
		Via: s.self, Logger: s.log.Logger,
		Memory: proxy.Memory{Hot: s.memory.hot, Proofs: s.memory.proofs, Fetches: s.memory.fetches, Answers: s.memory.answers},
	})
	if err != nil {
		return err
	}
	s.register()
	return nil
}

// openFront opens what stands between clients and the proxy.
func (s *server) openFront(ctx context.Context) (err error) {
	if s.config.TLSCert != "" {
		if s.tls, err = newCertificates(s.config, s.log.Logger); err != nil {
			return err
		}
	}
	if s.hookSecret, err = readHookSecret(s.config); err != nil {
		return err
	}
	s.hooks, s.largeHook = make(chan struct{}, maxHooks), make(chan struct{}, 1)
	return s.openAccess(ctx)
}

// scheme is that of our URL.
func (s *server) scheme() string {
	if s.tls != nil {
		return "https"
	}
	return "http"
}

// register makes the registry. Nothing is ever registered elsewhere.
func (s *server) register() {
	s.registry = prometheus.NewRegistry()
	s.reloads = newReloadMetrics()
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(s.Version))
	if store, ok := s.store.(storage.Measured); ok {
		s.registry.MustRegister(store.Metrics()...)
	}
	s.registry.MustRegister(s.proxy.Metrics()...)
	s.registry.MustRegister(s.reloads.collectors()...)
	s.registry.MustRegister(&upstreamCollector{&s.upstream}, newMemoryCollector(s.memory))
	for _, m := range s.mirrors {
		s.registry.MustRegister(m.Metrics()...)
	}
	s.registry.MustRegister(s.ownLog.Metrics()...)
	s.registry.MustRegister(s.access.Metrics()...)
	s.registry.MustRegister(s.log.out.dropped)
	s.registry.MustRegister(s.door.refused)
	if s.vcs != nil {
		s.registry.MustRegister(s.vcs.Metrics()...)
	}
}

// close releases the parts, highest first.
func (s *server) close() {
	if up := s.upstream.Load(); up != nil {
		up.chain.Close()
	}
	for _, m := range s.mirrors {
		m.Close()
	}
	if s.vcs != nil {
		if err := s.vcs.Close(); err != nil {
			s.log.Error("close version control", "err", err)
		}
	}
	if s.ownLog != nil {
		if err := s.ownLog.Close(); err != nil {
			s.log.Error("close log", "err", err)
		}
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("close store", "err", err)
		}
	}
}

// run serves until ctx ends and the transfers have finished.
func (s *server) run(ctx context.Context, listener net.Listener, hangup <-chan os.Signal) error {
	background, stop := context.WithCancel(context.Background())
	var followers sync.WaitGroup
	defer followers.Wait()
	defer s.door.Close()
	defer stop()
	for _, m := range s.mirrors {
		followers.Go(func() {
			if err := m.Run(background); err != nil {
				s.log.Error("updates of the checksum database stopped", "database", m.Name(), "err", err)
			}
		})
	}
	followers.Go(func() { s.reloadOn(background, hangup, listener.Addr()) })

	followers.Go(func() {
		if err := s.serveRefusals(s.door); !errors.Is(err, net.ErrClosed) {
			s.log.Error("refusing excess connections stopped", "err", err)
		}
	})
	httpServer := s.newHTTPServer()
	failed := make(chan error, 1)
	go func() {
		if s.tls != nil {
			httpServer.TLSConfig = s.tls.server()
			failed <- httpServer.ServeTLS(listener, "", "")
			return
		}
		failed <- httpServer.Serve(listener)
	}()
	s.ready.Store(true)
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	return s.shutdown(httpServer)
}

// shutdown lets what is under way finish, within the time for it.
func (s *server) shutdown(httpServer *http.Server) error {
	s.ready.Store(false)
	s.log.Info("stopping", "delay_s", s.config.ShutdownDelay.Seconds(), "timeout_s", s.config.ShutdownTimeout.Seconds())
	time.Sleep(s.config.ShutdownDelay) // a second signal ends the program, see run
	ctx, cancel := context.WithTimeout(context.Background(), s.config.ShutdownTimeout)
	defer cancel()
	err := httpServer.Shutdown(ctx)
	if err != nil {
		s.log.Warn("transfers aborted by the shutdown", "err", err)
		_ = httpServer.Close() // they are lost either way
	}
	if err := s.proxy.Close(ctx); err != nil {
		s.log.Warn("fetches aborted by the shutdown", "err", err)
	}
	s.log.Info("stopped")
	return nil
}

// logStart says what runs, and warns of what is legal but rarely meant.
func (s *server) logStart(from config.Sources) {
	c := s.config
	s.log.Info("assay starts", "version", s.Version, "data", c.Data, "upstream", fetch.Redact(c.Upstream), "upstream_from", from["upstream"],
		"sumdb", s.sumdbNames(), "sumdb_from", from["sumdb"], "private", c.Private, "private_from", from["private"], "descriptors", descriptorText())
	for _, name := range config.StrayVariables(os.Environ(), TokenVariables(c)) {
		s.log.Warn("ignoring unknown environment variable", "variable", name)
	}
	if len(s.mirrors) == 0 {
		s.log.Warn("NOTHING IS VERIFIED: the checksum database is off. Everything that an upstream sends is stored and served. Toolchains are refused.")
	}
	if p, err := policyOf(c); err == nil {
		if p.Everything() {
			s.log.Warn("every module is private: only toolchains are fetched from an upstream", "private", p.Patterns())
		}
		s.warnOfAccess(c, p)
	}
}

func (s *server) sumdbNames() string {
	var names []string
	for _, m := range s.mirrors {
		names = append(names, m.Name())
	}
	if len(names) == 0 {
		return "off"
	}
	return strings.Join(names, ",")
}

// reloadOn reads the settings again whenever a signal comes.
func (s *server) reloadOn(ctx context.Context, hangup <-chan os.Signal, addr net.Addr) {
	current := s.config
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			next, err := s.reload(current, addr)
			current = next
			s.reloads.note(err, time.Now())
			if err != nil {
				s.log.Error("reload refused: the old settings stay in force", "err", err)
			}
		}
	}
}

// reload puts into force what can be changed while running, and returns the
// configuration that is in force then. If anything is wrong, nothing changes.
func (s *server) reload(current config.Config, addr net.Addr) (config.Config, error) {
	// First, so that settings which are wrong do not keep a fork from being
	// cleared.
	for _, m := range s.mirrors {
		if err := m.Recheck(); err != nil {
			s.log.Warn("checksum database", "database", m.Name(), "err", err)
		}
	}
	c, from, err := s.Load()
	if err != nil {
		return current, err
	}
	changed, restart := current.Difference(c)
	next := current.Reloaded(c)               // what needs a restart stays as it was
	if err := s.checkRestart(c); err != nil { // else the restart that it needs would fail
		return current, err
	}
	commit, err := s.prepare(next, from, addr)
	if err != nil {
		return current, err
	}
	commit()
	s.log.Info("settings reloaded", "changed", changed)
	s.warnOfAccess(next, s.private.Load())
	if len(restart) > 0 {
		s.log.Warn("restart required for changed settings", "settings", restart)
	}
	return next, nil
}

// checkRestart checks all settings of c as a start with them would, together with the
// files that they name.
func (s *server) checkRestart(c config.Config) error {
	if err := Check(c); err != nil {
		return err
	}
	if err := checkCredentials(c); err != nil {
		return err
	}
	if _, err := readHookSecret(c); err != nil {
		return err
	}
	if c.TLSCert != "" {
		if _, err := newCertificates(c, s.log.Logger); err != nil {
			return err
		}
	}
	_, err := access.New(context.Background(), s.accessConfig(c))
	return err
}

// prepare reads and builds all that is needed to go on with the settings of c. Nothing
// of it is in force before commit, which cannot fail.
func (s *server) prepare(c config.Config, from config.Sources, addr net.Addr) (commit func(), err error) {
	if err := Check(c); err != nil {
		return nil, err
	}
	private, err := policyOf(c)
	if err != nil {
		return nil, err
	}
	commitAccess, err := s.access.Prepare(context.Background())
	if err != nil {
		return nil, err
	}
	commitTLS, err := s.tls.prepare()
	if err != nil {
		return nil, err
	}
	up, err := s.newUpstream(c, from, addr)
	if err != nil {
		return nil, err
	}
	source, err := s.openVCS(c, up.chain.Direct()) // last: what it opens stays open
	if err != nil {
		up.chain.Close()
		return nil, err
	}
	return func() {
		commitAccess()
		commitTLS()
		s.private.Store(private)
		old := s.upstream.Swap(up)
		s.proxy.Reload(up.chain, private, source)
		for _, m := range s.mirrors { // after the patterns: what has become private must not go there
			m.SetFetch(up.databases[m.Name()])
		}
		s.log.configure(c)
		old.chain.Close()
	}, nil
}
