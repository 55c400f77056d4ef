package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// settings are the settings that a reload can change, with the parts that are built from them. They
// are one immutable value: a reload builds another one and puts it into force at once.
type settings struct {
	config    config.Config
	level     slog.Level // minimum level of logged lines
	policy    *privacy.Policy
	chain     *fetch.Chain
	databases map[string]sumdb.FetchFunc // by name; none if there is no upstream
	vcs       *vcs.Source                // nil if no module needs it
}

// content returns the settings of the proxy.
func (s *settings) content() content.Settings {
	return content.Settings{Upstream: s.chain, Policy: s.policy, VCS: s.vcs}
}

// metrics returns the collectors of the parts that are built from the settings.
func (s *settings) metrics() []prometheus.Collector {
	var all []prometheus.Collector
	if s.chain != nil {
		all = append(all, s.chain.Metrics()...)
	}
	if s.vcs != nil {
		all = append(all, s.vcs.Metrics()...)
	}
	return all
}

// close closes the parts that are built from the settings.
func (s *settings) close() error {
	if s.chain != nil {
		s.chain.Close()
	}
	if s.vcs != nil {
		return s.vcs.Close()
	}
	return nil
}

// inForce has the settings in force. Running parts read them here each time, because they change.
type inForce struct {
	settings atomic.Pointer[settings]
}

// newInForce returns the settings of a configuration, without the parts.
func newInForce(c config.Config) *inForce {
	f := &inForce{}
	f.settings.Store(&settings{config: c, level: c.Level()})
	return f
}

func (f *inForce) load() *settings { return f.settings.Load() }

// put puts settings into force, and returns the previous ones.
func (f *inForce) put(s *settings) (old *settings) { return f.settings.Swap(s) }

// Level returns the minimum level of logged lines, for package slog.
func (f *inForce) Level() slog.Level { return f.load().level }

// accessLog returns of how many hits one has a line in the log: 1 means each, 0 that no request has a line.
func (f *inForce) accessLog() (sample int) {
	c := f.load().config
	if !c.AccessLog {
		return 0
	}
	return c.AccessSample
}

// fetchFrom returns a function that returns the current FetchFunc for a checksum database.
func (f *inForce) fetchFrom(database string) func() sumdb.FetchFunc {
	return func() sumdb.FetchFunc { return f.load().databases[database] }
}

// permit refuses to send the name of a module that is private now. The proxy has decided that
// before, but a long request may have been decided by the settings before a reload.
func (f *inForce) permit(modulePath string) error {
	if pattern, private := f.load().policy.Private(modulePath); private {
		return fmt.Errorf("module became private during the request (pattern %s); retry", pattern)
	}
	return nil
}

// Describe describes nothing, which makes this collector an unchecked one: the next settings may
// have other upstreams.
func (f *inForce) Describe(chan<- *prometheus.Desc) {}

// Collect collects the metrics of the settings in force.
func (f *inForce) Collect(ch chan<- prometheus.Metric) {
	for _, collector := range f.load().metrics() {
		collector.Collect(ch)
	}
}

// builder builds settings from configurations.
type builder struct {
	version string
	via     string   // our name in Via headers
	addr    net.Addr // our listen address, which an upstream must not be
	permit  func(modulePath string) error
	memory  *memory.Budget // of fetched data
	ownLog  *pinlog.Log    // nil until it is open
	log     *slog.Logger
}

// build builds settings from a configuration, with an existing source of repositories.
func (b *builder) build(c config.Config, from config.Sources, source *vcs.Source) (*settings, error) {
	policy, err := policyOf(c)
	if err != nil {
		return nil, err
	}
	databases, err := databasesOf(c)
	if err != nil {
		return nil, err
	}
	database := "" // that probes request from upstreams
	if len(databases) > 0 {
		database = databases[0].Name
	}
	chain, err := fetch.New(fetch.Config{
		List:     c.Upstream,
		CAFile:   c.CAFile,
		Database: database,
		Budget: fetch.Budget{
			Connect: c.ConnectTimeout, TLS: c.ConnectTimeout, FirstByte: c.HeaderTimeout, IdleBody: c.IdleTimeout,
			Answer: c.AnswerTimeout * 9 / 10, // so that there is time to send the client an error
		},
		Breaker: fetch.Breaker{
			Share: c.BreakerShare, Window: c.BreakerWindow, Minimum: c.BreakerMinimum, Open: c.BreakerOpen,
		},
		Retries:   c.Attempts,
		UserAgent: "assay/" + b.version + " (+https://github.com/assay-proxy/assay)",
		Via:       "1.1 " + b.via,
		Self:      []string{b.addr.String(), c.Listen},

		RedirectHosts: config.List(c.RedirectHosts),

		Permit: b.permit,
		Logger: b.log,
	})
	if err != nil {
		err = fmt.Errorf("upstream (from %s): %w", from["upstream"], err)
		if from["upstream"] == "environment GOPROXY" {
			err = fmt.Errorf("%w; GOPROXY of the environment is also for the go command; if it names this proxy, name its upstream with --upstream", err)
		}
		return nil, err
	}
	if chain.Direct() && c.VCS == "off" {
		chain.Close()
		return nil, errDirectOff
	}
	s := &settings{config: c, level: c.Level(), policy: policy, chain: chain, databases: map[string]sumdb.FetchFunc{}, vcs: source}
	for _, db := range databases {
		if !chain.Offline() {
			s.databases[db.Name] = chain.SumDB(db.Name, db.URL, !db.Direct)
		}
	}
	return s, nil
}

// withVCS returns s with a source of repositories, if any module needs one and there is none yet.
func (b *builder) withVCS(s *settings) (*settings, error) {
	c := s.config
	if s.vcs != nil || c.VCS == "off" || s.policy.Patterns() == "" && !s.chain.Direct() {
		return s, nil
	}
	if b.ownLog != nil && b.ownLog.Refuses() != nil { // at a reload; at the start the log is not open yet
		b.log.Error("the own log is read-only: new private versions are refused", "err", b.ownLog.Refuses())
	}
	credentials, err := readCredentials(c)
	if err != nil {
		return nil, err
	}
	source, err := vcs.New(vcs.Config{
		Dir: filepath.Join(c.Data, "vcs"), Systems: config.List(c.VCS), Jobs: c.VCSJobs, Timeout: c.VCSTimeout, MaxBytes: vcsBytes(c),
		Network: vcs.Network{Hosts: config.List(c.VCSHosts), CAFile: c.CAFile}, Credentials: credentials, Netrc: c.Netrc, Logger: b.log, Memory: b.memory,
	})
	if err != nil {
		return nil, err
	}
	if err := source.Tools(); err != nil {
		b.log.Error("private modules cannot be fetched; requests for them fail", "private", s.policy.Patterns(), "err", err)
	}
	with := *s
	with.vcs = source
	return &with, nil
}
