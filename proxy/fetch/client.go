package fetch

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// client is the part that the upstreams of a chain share.
type client struct {
	transports transports
	trusted    trustedHosts
	database   string // see Config.Database
	budget     Budget
	breaker    Breaker
	attempts   int
	header     http.Header // of each request
	permit     func(modulePath string) error
	metrics    *metrics
	log        *slog.Logger
	patients   patients
	background *background
}

func newClient(c Config, transports transports, trusted trustedHosts) *client {
	header := http.Header{"User-Agent": {"assay"}, "Accept-Encoding": {"identity"}}
	if c.UserAgent != "" {
		header.Set("User-Agent", c.UserAgent)
	}
	if c.Via != "" {
		header.Set("Via", c.Via)
	}
	if c.Retries <= 0 {
		c.Retries = 3
	}
	if c.Permit == nil {
		c.Permit = func(string) error { return nil }
	}
	return &client{
		transports: transports, trusted: trusted, database: c.Database, budget: c.Budget, breaker: c.Breaker.withDefaults(), attempts: c.Retries,
		header: header, permit: c.Permit, metrics: newMetrics(), log: c.Logger,
		background: newBackground(),
	}
}

// close cancels the work in the background, waits for it, and closes idle connections.
func (c *client) close() {
	c.background.close()
	c.transports.closeIdle()
}

// deadline returns the time by which an answer must be complete.
func (c *client) deadline(ctx context.Context) time.Time {
	deadline := time.Now().Add(c.budget.Answer)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		return d
	}
	return deadline
}
