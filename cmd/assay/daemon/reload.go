package daemon

import (
	"context"
	"log/slog"
	"os"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy"
)

// reloader puts changed settings into force while the program runs.
type reloader struct {
	load         func() (config.Config, config.Sources, error)
	builder      *builder
	current      *inForce
	stores       *stores
	access       *access.Authenticator
	certificates *certificates // nil: plain http
	webhooks     *webhooks     // nil: there are none
	proxy        *proxy.Server
	metrics      *reloadMetrics
	log          *slog.Logger
}

// run reads the settings again at each signal, until ctx ends.
func (r *reloader) run(ctx context.Context, hangup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			tellManager(r.log, systemd.SdNotifyReloading, systemd.SdNotifyMonotonicUsec())
			err := r.reload(ctx)
			r.metrics.note(err, time.Now())
			status := serving(r.builder.addr)
			if err != nil {
				r.log.Error("reload refused: the old settings stay in force", "err", err)
				status += "; the last reload was refused, see the log"
			}
			tellManager(r.log, systemd.SdNotifyReady, status)
		}
	}
}

// reload puts into force all settings that can change without a restart. If anything is wrong,
// nothing changes.
func (r *reloader) reload(ctx context.Context) error {
	r.stores.recheck(ctx, r.log) // first, so that wrong settings do not prevent an administrator from clearing a fork
	c, from, err := r.load()
	if err != nil {
		return err
	}
	if err := checkStart(c, r.log); err != nil { // otherwise the next restart would fail
		return err
	}
	old := r.current.load().config
	changed, restart := old.Difference(c)
	commit, err := r.prepare(old.Reloaded(c), from) // settings that need a restart keep their values
	if err != nil {
		return err
	}
	commit()
	r.log.Info("settings reloaded", "changed", changed)
	r.current.load().warnOfAccess(r.builder.addr, r.access, r.log)
	if len(restart) > 0 {
		r.log.Warn("restart required for changed settings", "settings", restart)
	}
	return nil
}

// prepare reads and builds everything that the settings of c need. None of it is in force before
// commit, which cannot fail.
func (r *reloader) prepare(c config.Config, from config.Sources) (commit func(), err error) {
	if err := Check(c); err != nil {
		return nil, err
	}
	commitAccess, err := r.access.Prepare(context.Background())
	if err != nil {
		return nil, err
	}
	commitCertificates, err := r.certificates.prepare()
	if err != nil {
		return nil, err
	}
	hookSecret, err := readHookSecret(c)
	if err != nil {
		return nil, err
	}
	made, err := r.builder.build(c, from, r.current.load().vcs)
	if err != nil {
		return nil, err
	}
	next, err := r.builder.withVCS(made) // last: it opens something that stays open
	if err != nil {
		made.chain.Close()
		return nil, err
	}
	return func() {
		commitAccess()
		commitCertificates()
		r.webhooks.use(hookSecret)
		// From here on, no name of a module that has become private is sent, and the old upstream
		// is not used for a database; then the proxy starts to use the new settings.
		old := r.current.put(next)
		r.proxy.Reload(next.content())
		old.chain.Close()
	}, nil
}

// reloadMetrics has the result of the last reload.
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
	m.time.Set(float64(now.UnixMicro()) / 1e6) // two reloads in one second are told apart
}

func (m *reloadMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.successful, m.time}
}
