package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/sumdb"
)

// viaName returns a name for this process that no other has.
func viaName() string { return "assay-" + rand.Text()[:12] }

// upstream is a chain and how it reaches the checksum databases. Both are
// replaced together.
type upstream struct {
	chain     *fetch.Chain
	databases map[string]sumdb.FetchFunc // by name; none if there is no upstream
}

// newUpstream makes the chain that c describes. addr is where we listen, which an
// upstream must not be.
func (s *server) newUpstream(c config.Config, from config.Sources, addr net.Addr) (*upstream, error) {
	databases, err := databasesOf(c)
	if err != nil {
		return nil, err
	}
	database := "" // that upstreams are asked for to see whether they live
	if len(databases) > 0 {
		database = databases[0].Name
	}
	chain, err := fetch.New(fetch.Config{
		List:     c.Upstream,
		CAFile:   c.CAFile,
		Database: database,
		Budget: fetch.Budget{
			Connect: c.ConnectTimeout, TLS: c.ConnectTimeout, FirstByte: c.HeaderTimeout, IdleBody: c.IdleTimeout,
			Answer: c.AnswerTimeout * 9 / 10, // so that who waits can be told what went wrong
		},
		Breaker: fetch.Breaker{
			Share: c.BreakerShare, Window: c.BreakerWindow, Minimum: c.BreakerMinimum, Open: c.BreakerOpen,
		},
		Retries:   c.Attempts,
		UserAgent: "assay/" + s.Version + " (+https://github.com/assay-proxy/assay)",
		Via:       "1.1 " + s.self,
		Self:      []string{addr.String(), c.Listen},

		RedirectHosts: config.List(c.RedirectHosts),

		Permit: s.permit,
		Logger: s.log.Logger,
	})
	if err != nil {
		err = fmt.Errorf("upstream (from %s): %w", from["upstream"], err)
		if from["upstream"] == "environment GOPROXY" {
			err = fmt.Errorf("%w; GOPROXY names this proxy; name its upstream with --upstream", err)
		}
		return nil, err
	}
	if chain.Direct() && c.VCS == "off" {
		return nil, errDirectOff
	}
	up := &upstream{chain, map[string]sumdb.FetchFunc{}}
	for _, db := range databases {
		if !chain.Offline() {
			up.databases[db.Name] = chain.SumDB(db.Name, db.URL, !db.Direct)
		}
	}
	return up, nil
}

// permit refuses to send the name of a module that is private now. The proxy has
// decided that before, but what runs for long may have been decided on by the settings
// of before a reload.
func (s *server) permit(path string) error {
	if strings.HasPrefix(path, "lookup/") { // at the database itself
		path = "sumdb/-/" + path
	}
	req, err := request.Parse(path)
	if err != nil || req.Module == "" {
		return nil // it names no module
	}
	if pattern, private := s.private.Load().Private(req.Module); private {
		return fmt.Errorf("module became private during the request (pattern %s); retry", pattern)
	}
	return nil
}

// databasesOf returns the checksum databases of c; the first one verifies.
func databasesOf(c config.Config) ([]sumdb.Setting, error) {
	var all []sumdb.Setting
	first, err := sumdb.ParseGOSUMDB(c.SumDB)
	if err != nil {
		return nil, fmt.Errorf("sumdb: %w", err)
	}
	if !first.Off {
		all = append(all, first)
	}
	for key := range strings.SplitSeq(c.Mirror, ",") {
		if key == "" {
			continue
		}
		db, err := sumdb.ParseGOSUMDB(key)
		if err != nil {
			return nil, fmt.Errorf("mirror: %w", err)
		}
		if db.Off {
			return nil, errors.New("mirror: off is not a verifier key; omit the setting to serve no additional databases")
		}
		if slices.ContainsFunc(all, func(other sumdb.Setting) bool { return other.Name == db.Name }) {
			return nil, fmt.Errorf("mirror: %s is named twice, here or in sumdb; the database in sumdb is always served", db.Name)
		}
		all = append(all, db)
	}
	return all, nil
}

// openMirrors opens a mirror for each database.
func (s *server) openMirrors(ctx context.Context) ([]*sumdb.Mirror, error) {
	databases, err := databasesOf(s.config)
	if err != nil {
		return nil, err
	}
	var mirrors []*sumdb.Mirror
	for _, db := range databases {
		m, err := sumdb.Open(ctx, sumdb.Config{
			Key:      db.Key,
			Store:    s.store,
			Fetch:    s.upstream.Load().databases[db.Name],
			Evidence: filepath.Join(s.config.Data, "evidence"),
			Memory:   s.memory.proofs,
			Logger:   s.log.Logger,
		})
		if err != nil {
			return nil, fmt.Errorf("checksum database %s: %w", db.Name, err)
		}
		mirrors = append(mirrors, m)
	}
	return mirrors, nil
}

// Check checks everything that can be checked without opening anything.
func Check(c config.Config) error {
	if _, err := policyOf(c); err != nil {
		return err
	}
	if _, err := databasesOf(c); err != nil {
		return err
	}
	entries, err := fetch.ParseList(c.Upstream)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	if entries[len(entries)-1].Direct && c.VCS == "off" {
		return errDirectOff
	}
	_, err = readCredentials(c)
	return err
}

// errDirectOff says that two settings contradict each other.
var errDirectOff = errors.New("upstream ends with direct, and vcs is off: nothing can be fetched from repositories; remove one of them")

// upstreamCollector is the collectors of whatever chain is in force.
type upstreamCollector struct {
	current *atomic.Pointer[upstream]
}

// Describe says nothing, which makes the collector an unchecked one: the
// upstreams of the next chain may be others.
func (c *upstreamCollector) Describe(chan<- *prometheus.Desc) {}

func (c *upstreamCollector) Collect(ch chan<- prometheus.Metric) {
	for _, collector := range c.current.Load().chain.Metrics() {
		collector.Collect(ch)
	}
}

// reloadMetrics say how the last reload went.
type reloadMetrics struct {
	successful prometheus.Gauge
	time       prometheus.Gauge
}

func newReloadMetrics() *reloadMetrics {
	m := &reloadMetrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_config_last_reload_successful",
			Help: "Whether the last attempt to load the configuration was successful (1) or not (0).",
		}),
		time: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration was last loaded successfully, in seconds since 1970.",
		}),
	}
	m.note(nil, time.Now())
	return m
}

func (m *reloadMetrics) note(err error, now time.Time) {
	if err != nil {
		m.successful.Set(0)
		return
	}
	m.successful.Set(1)
	m.time.Set(float64(now.Unix()))
}

func (m *reloadMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.successful, m.time}
}

// buildInfo is a constant series that says which program this is.
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
