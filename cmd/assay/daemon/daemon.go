// Package daemon is assay serve: it creates the parts of the program from the settings, connects
// them, and owns the front: connections, TLS, authentication, webhooks, logs, metrics, the memory
// limit, reloads and shutdown.
package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
)

// Options are the dependencies that the caller of the daemon provides.
type Options struct {
	Load     func() (config.Config, config.Sources, error) // reads the settings, and again at each reload
	Version  string                                        // of the program
	Out, Err io.Writer                                     // for the announcement, and for the log
}

// daemon is the running program with its parts.
type daemon struct {
	config       config.Config // the settings at the start; current has those in force
	current      *inForce
	log          *logger
	memory       shares
	listener     *listener
	stores       *stores
	access       *access.Authenticator
	certificates *certificates // nil: plain http
	proxy        *proxy.Server
	front        *front
	reloader     *reloader
	registry     *prometheus.Registry
}

// Run serves until ctx ends, and shuts down gracefully.
func Run(ctx context.Context, o Options) error {
	o.Load = offlineIfReadOnly(o.Load)
	c, from, err := o.Load()
	if err != nil {
		return err
	}
	// The program must not end when the reader of its standard output or error ends. Run does not
	// ignore the signal, because the commands that it runs would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	d := newDaemon(c, o.Err)
	defer d.log.Close()
	slog.SetDefault(d.log.Logger)     // net/http logs its messages about an upstream with package log
	hangup := make(chan os.Signal, 1) // from here on, so that an early signal does not end the program
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	passed, err := passedSockets()
	if err != nil {
		return err
	}
	if err := d.listen(descriptorLimit(), passed); err != nil {
		return err
	}
	defer d.listener.Close()
	var machines *monitor
	if c.MetricsListen != "" {
		inner, err := passed.open("metrics-listen", c.MetricsListen, d.log.Logger)
		if err != nil {
			return err
		}
		machines = newMonitor(inner, d.memory, d.log.Logger)
		defer machines.close()
	} else if passed["metrics-listen"] != nil {
		return errNoMetricsListen
	}
	tellManager(d.log.Logger, "STATUS=opening the store")
	if err := d.open(ctx, o, from); err != nil {
		if ctx.Err() != nil { // it was stopped, for instance while keys are moved
			d.log.Info("stopped during the start", "err", err)
			return nil
		}
		return err
	}
	defer d.close()
	limitMemory(c.MemoryBudget, containerMemory("/"), d.log.Logger) // once all memory that is always in use is allocated
	d.logStart(o.Version, from)
	if machines != nil {
		machines.begin(d.front.ready, metricsHandler(d.registry, d.log))
	}
	defer d.announce(o.Out)()
	return d.serve(ctx, hangup)
}

// newDaemon creates the parts that all other parts need.
func newDaemon(c config.Config, errOut io.Writer) *daemon {
	current := newInForce(c)
	return &daemon{config: c, current: current, log: newLogger(errOut, c.LogFormat, current), memory: divide(c.MemoryBudget, c.Store != "")}
}

// announce prints the address: into the log if that is JSON, otherwise to standard output. end ends
// the announcement.
func (d *daemon) announce(out io.Writer) (end func()) {
	url, configure := d.scheme()+"://"+clientAddr(d.listener.Addr())+d.config.Prefix, "go env -w GOPROXY="
	if addr := d.listener.Addr(); addr.Network() == "unix" {
		url, configure = "unix:"+addr.String(), "go env -w GOPROXY= and the URL of the reverse proxy in front of "
	}
	if d.config.LogFormat == "json" {
		d.log.Info("serving", "url", url)
		return func() {}
	}
	queue := newLineQueue(out, nil) // standard output may be a full pipe as well
	fmt.Fprintf(queue.writer(rankWarning), "Assay serves %s\nConfigure the go command: %s%s\n", url, configure, url)
	return queue.Close
}

// listen opens the address, if it is not passed, for a process that may open at most descriptors
// files.
func (d *daemon) listen(descriptors int64, passed sockets) error {
	inner, err := passed.open("listen", d.config.Listen, d.log.Logger)
	if err != nil {
		return err
	}
	each := int64(connectionMemory)
	if d.scheme() == "https" {
		each = tlsConnectionMemory
	}
	served := newConnections(d.memory.connections, each, descriptors-reserved(descriptors))
	d.listener = newListener(inner, descriptors, served, d.log.Logger)
	d.listener.passed = passed["listen"] != nil
	return nil
}

// scheme returns the scheme of our URL.
func (d *daemon) scheme() string {
	if d.config.TLSCert != "" {
		return "https"
	}
	return "http"
}

// open opens the parts, from the lowest to the highest.
func (d *daemon) open(ctx context.Context, o Options, from config.Sources) (err error) {
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	c := d.config
	who, err := newClients(c.TrustedProxies)
	if err != nil {
		return err
	}
	who.sockets = d.listener.Addr().Network() == "unix"
	secret, err := d.readFiles(ctx, who)
	if err != nil {
		return err
	}
	b := &builder{version: o.Version, via: viaName(), addr: d.listener.Addr(), permit: d.current.permit, memory: d.memory.fetches, log: d.log.Logger}
	made, err := b.build(c, from, nil)
	if err != nil {
		return err
	}
	d.current.put(made)
	go d.refuse() // also while keys are moved; it ends with the listener
	migrate := &migration{refuse: migrationRefused(c), prefix: c.Prefix, listener: d.listener, certificates: d.certificates, log: d.log}
	if d.stores, err = openStores(ctx, c, d.current, d.memory, d.log.Logger, migrate); err != nil {
		return err
	}
	if made, err = b.withVCS(made); err != nil {
		return err
	}
	d.current.put(made)
	needed := c.Unified || made.policy.Patterns() != ""
	if err := d.stores.openOwnLog(ctx, c, needed, d.memory.ownLog, d.log.Logger); err != nil { // last, because it fixes the name of a new log forever
		return err
	}
	b.ownLog = d.stores.ownLog
	if d.proxy, err = d.newProxy(b.via, who); err != nil {
		return err
	}
	d.stores.followPurges(d.proxy.Content().Purged)
	d.openFront(secret, o.Version, who)
	d.reloader = &reloader{
		load: o.Load, builder: b, current: d.current, stores: d.stores, access: d.access, certificates: d.certificates,
		webhooks: d.front.webhooks, proxy: d.proxy, metrics: newReloadMetrics(), log: d.log.Logger,
	}
	d.register(o.Version)
	return nil
}

// viaName returns a name for this process that no other process has.
func viaName() string { return "assay-" + rand.Text()[:12] }

// readFiles reads the files that settings name, and returns the secret of the webhooks.
func (d *daemon) readFiles(ctx context.Context, who *clients) (hookSecret string, err error) {
	if err := checkCredentials(d.config); err != nil { // also if no part needs them yet: one may after a reload
		return "", err
	}
	if d.config.TLSCert != "" {
		if d.certificates, err = newCertificates(d.config, d.log.Logger); err != nil {
			return "", err
		}
	}
	if hookSecret, err = readHookSecret(d.config); err != nil {
		return "", err
	}
	d.access, err = access.New(ctx, accessConfig(d.config, who, d.log.Logger))
	return hookSecret, err
}

func (d *daemon) newProxy(via string, who *clients) (*proxy.Server, error) {
	c, now := d.config, d.current.load()
	return proxy.New(proxy.Config{
		Content: content.Config{
			Store: d.stores.objects, Databases: d.stores.mirrors, Log: d.stores.ownLog, Unified: c.Unified,
			Scratch: d.stores.scratch, Evidence: evidenceDir(c), Logger: d.log.Logger,
			Times:  content.Times{Answer: c.AnswerTimeout, Fresh: c.Fresh, Stale: c.Stale},
			Memory: content.Memory{Hot: d.memory.hot, Proofs: d.memory.proofs, Fetches: d.memory.fetches},
			Fills:  content.Fills{Objects: c.Fills, Zips: c.ZipFills},
			News:   d.stores.board,
		},
		Settings: now.content(),
		Predict:  c.Predict, Access: d.access, Remote: who.address, Answers: d.memory.answers, FirstByte: firstByte, Via: via,
	})
}

// openFront creates the parts between clients and the proxy.
func (d *daemon) openFront(hookSecret, version string, who *clients) {
	d.registry = prometheus.NewRegistry()
	d.front = &front{
		log: d.log, observer: newObserver(d.log, d.current.accessLog, who), clients: who, connections: d.listener.connections,
		site:     &site{d.scheme(), d.config.Prefix, who},
		ready:    &readiness{store: d.stores.local, log: d.log.Logger},
		leaks:    &leaksPage{&operators{config.List(d.config.Operators), d.access, who}, d.proxy.AllLeaks, d.proxy},
		protocol: d.proxy,
	}
	d.front.observer.tracing.start(version, d.config.Prefix, d.log.Logger)
	if !d.config.Anonymous {
		d.front.login = &login{d.access, who, d.log}
	}
	d.front.setup = &setup{site: d.front.site, current: d.current, access: d.access}
	if d.config.Unified {
		d.front.setup.ownLog = d.stores.ownLog.Key()
	}
	if d.config.MetricsListen == "" {
		d.front.metrics = metricsHandler(d.registry, d.log)
	}
	if hookSecret != "" {
		d.front.webhooks = newWebhooks(hookSecret, d.memory.fetches, who, d.log.Logger, d.proxy.Pushed)
	}
}

// register registers all collectors.
func (d *daemon) register(version string) {
	d.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(version))
	d.registry.MustRegister(d.stores.metrics()...)
	d.registry.MustRegister(d.proxy.Metrics()...)
	d.registry.MustRegister(d.access.Metrics()...)
	d.registry.MustRegister(d.front.observer.collectors()...)
	d.registry.MustRegister(d.reloader.metrics.collectors()...)
	d.registry.MustRegister(d.current, newMemoryCollector(d.memory), newDiskCollector(d.config.Data), d.log.lines.metrics(), d.listener.refused, d.certificates.metrics())
}

// close closes the parts, from the highest to the lowest.
func (d *daemon) close() {
	if err := d.current.load().close(); err != nil {
		d.log.Error("close version control", "err", err)
	}
	if d.stores != nil {
		d.stores.close(d.log.Logger)
	}
}

// serve serves until ctx ends and the transfers have finished.
func (d *daemon) serve(ctx context.Context, hangup <-chan os.Signal) error {
	background, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer d.listener.Close()
	defer stop()
	for _, m := range d.stores.mirrors {
		running.Go(func() {
			if err := m.Run(background); err != nil {
				d.log.Error("updates of the checksum database stopped", "database", m.Name(), "err", err)
			}
		})
	}
	running.Go(func() { d.stores.board.Run(background) })
	running.Go(func() { d.stores.runLog(background) })
	running.Go(func() { d.proxy.Content().Teller().Run(background) })
	running.Go(func() { d.reloader.run(background, hangup) })
	if limited := d.stores.limited; limited != nil {
		running.Go(func() { limited.run(background, d.proxy.Content().Obtainable) })
	}
	if !d.config.ReadOnly { // read-only commands open the store at the same time
		defer serveAdmin(d.adminServer(), &running, d.log.Logger)()
	}
	httpServer := d.front.newServer(d.config.AnswerTimeout)
	failed := make(chan error, 1)
	go func() {
		if d.certificates != nil {
			httpServer.TLSConfig = d.certificates.server()
			failed <- httpServer.ServeTLS(d.listener, "", "")
			return
		}
		failed <- httpServer.Serve(d.listener)
	}()
	d.front.ready.phase.Store(phaseReady)
	own := &supervised{d.front.ready, d.listener.Addr(), d.scheme() + "://localhost" + d.config.Prefix + "/readyz", d.log.Logger}
	supervision, end := context.WithCancel(ctx) // it ends at the stop signal
	defer end()
	running.Go(func() { own.run(supervision) })
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	return d.shutdown(httpServer)
}

// adminServer returns the server of the administrator's commands.
func (d *daemon) adminServer() *admin.Server {
	server := &admin.Server{
		Data: d.config.Data, Store: d.stores.objects, Place: d.stores.place, Forget: d.forget,
		Version: d.reloader.builder.version, Logger: d.log.Logger, Thaw: d.stores.thaw, KeepsChanged: d.stores.keepsChanged,
	}
	if d.stores.bucket != nil {
		server.News = d.stores.board
	}
	if limited := d.stores.limited; limited != nil {
		server.Limit = limited.Report
	}
	if bucket := d.stores.bucket; bucket != nil {
		server.Collect = Collect(bucket)
	}
	return server
}

// forget drops purged objects from memory, here and in other replicas.
func (d *daemon) forget(items []content.Item) error {
	d.proxy.Content().Forget(items)
	err := d.proxy.Content().Teller().Tell(context.Background(), items) // it ends by itself
	if err != nil {
		d.log.Error("other replicas do not know yet that files were purged, and may serve them; they are told again until it succeeds, or restart them", "files", len(items), "err", err)
	}
	return err
}

// refuse serves the refused connections until the listener is closed.
func (d *daemon) refuse() {
	if err := d.listener.refusals.serve(d.certificates.http1(), d.log.Logger); !errors.Is(err, net.ErrClosed) {
		d.log.Error("refusing excess connections stopped", "err", err)
	}
}

// closeTime is enough for what follows the transfers of a shutdown: the store is closed.
const closeTime = 30 * time.Second

// shutdown lets running requests finish, within the configured time.
func (d *daemon) shutdown(httpServer *http.Server) error {
	d.front.ready.phase.Store(phaseStopping)
	tellManager(d.log.Logger, systemd.SdNotifyStopping, "STATUS=finishing transfers", extension(d.config.ShutdownDelay+d.config.ShutdownTimeout+closeTime))
	d.log.Info("stopping", "delay_s", d.config.ShutdownDelay.Seconds(), "timeout_s", d.config.ShutdownTimeout.Seconds())
	time.Sleep(d.config.ShutdownDelay) // a second signal ends the program, see package main
	ctx, cancel := context.WithTimeout(context.Background(), d.config.ShutdownTimeout)
	defer cancel()
	httpServer.SetKeepAlivesEnabled(false)
	d.listener.drain(ctx)
	err := httpServer.Shutdown(ctx)
	if err != nil {
		d.log.Warn("transfers aborted by the shutdown", "err", err)
		_ = httpServer.Close() // the time is over; they are lost
	}
	if err := d.proxy.Close(ctx); err != nil {
		d.log.Warn("fetches aborted by the shutdown", "err", err)
	}
	d.front.observer.tracing.close(ctx)
	d.log.Info("stopped")
	return nil
}

// logStart logs the version and the settings, and warnings about settings that are legal but rarely
// intended.
func (d *daemon) logStart(version string, from config.Sources) {
	c := d.config
	d.log.Info("assay starts", "version", version, "data", c.Data, "upstream", fetch.Redact(c.Upstream), "upstream_from", from["upstream"],
		"sumdb", d.stores.names(), "sumdb_from", from["sumdb"], "private", c.Private, "private_from", from["private"], "descriptors", descriptorText())
	for _, name := range config.StrayVariables(os.Environ(), TokenVariables(c)) {
		d.log.Warn("ignoring unknown environment variable", "variable", name)
	}
	if len(d.stores.mirrors) == 0 {
		d.log.Warn("NOTHING IS VERIFIED: the checksum database is off. Everything that an upstream sends is stored and served. Toolchains are refused.")
	}
	now := d.current.load()
	if now.policy.MatchesAll() {
		d.log.Warn("every module is private: only toolchains are fetched from an upstream", "private", now.policy.Patterns())
	}
	now.warnOfAccess(d.listener.Addr(), d.access, d.log.Logger)
	if d.listener.passed {
		warnOfSocket(d.listener.Addr(), d.log.Logger)
	}
}

// descriptorText returns the limit in the form for the log.
func descriptorText() string {
	if limit := descriptorLimit(); limit < noLimit {
		return strconv.FormatInt(limit, 10)
	}
	return "unlimited"
}

// buildInfo returns a constant series with the version of the program.
func buildInfo(program string) prometheus.Collector {
	goVersion := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
	}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "assay_build_info",
		Help:        "1, with the version of the program and of Go as labels.",
		ConstLabels: prometheus.Labels{"version": program, "go": goVersion},
	}, func() float64 { return 1 })
}
