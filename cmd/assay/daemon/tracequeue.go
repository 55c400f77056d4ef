package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/assay-proxy/assay/internal/text"
)

// spanQueue is the queue of the library, which does not report the spans that it drops: so spanQueue does not let
// it become full, and counts those for which it has no place.
type spanQueue struct {
	sdktrace.SpanProcessor
	room    int64
	waiting atomic.Int64 // spans
	refused atomic.Int64 // since the last export
	dropped prometheus.Counter
}

// newSpanQueue returns a queue in front of an exporter.
func newSpanQueue(exporter sdktrace.SpanExporter, dropped prometheus.Counter) *spanQueue {
	size, err := strconv.Atoi(os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE"))
	if err != nil || size <= 0 {
		size = sdktrace.DefaultMaxQueueSize
	}
	q := &spanQueue{room: int64(size), dropped: dropped}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(&countedExporter{exporter, q}, sdktrace.WithMaxQueueSize(size))
	return q
}

// OnEnd implements sdktrace.SpanProcessor. It runs in a request, so it logs nothing.
func (q *spanQueue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.room {
		q.waiting.Add(-1)
		q.refused.Add(1)
		q.dropped.Inc()
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// countedExporter exports the spans of a queue.
type countedExporter struct {
	sdktrace.SpanExporter
	queue *spanQueue
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *countedExporter) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	e.queue.waiting.Add(-int64(len(batch)))
	err := e.SpanExporter.ExportSpans(ctx, batch)
	if err != nil {
		e.queue.dropped.Add(float64(len(batch)))
	}
	if n := e.queue.refused.Swap(0); n > 0 {
		otel.Handle(queueFull(n))
	}
	return err
}

// queueFull is the error about so many spans for which the queue had no place.
type queueFull int64

func (n queueFull) Error() string {
	return fmt.Sprintf("the queue had no place for %d spans: the collector is slow; trace fewer requests (OTEL_TRACES_SAMPLER), or raise OTEL_BSP_MAX_QUEUE_SIZE", int64(n))
}

// exportErrors logs errors of the exporter, at most one each minute.
type exportErrors struct {
	log *slog.Logger

	mu      sync.Mutex // guards the fields below
	logged  time.Time
	omitted int // since then
}

// Handle implements otel.ErrorHandler.
func (e *exportErrors) Handle(err error) {
	e.mu.Lock()
	if time.Since(e.logged) < time.Minute {
		e.omitted++
		e.mu.Unlock()
		return
	}
	omitted := e.omitted
	e.logged, e.omitted = time.Now(), 0
	e.mu.Unlock()
	e.log.Warn("spans cannot be exported; requests are not affected", "err", exportFailure(err), "more", omitted)
}

// errRedirected is the error of a request that a redirect has caused.
var errRedirected = errors.New("the collector redirects to another address, which is not followed; set OTEL_EXPORTER_OTLP_ENDPOINT to that one if it is right")

// noRedirect is the function for the proxy of a request, which runs before each. In this place a redirect
// can be refused; with a client of ours the library would not read the variables for TLS.
func noRedirect(r *http.Request) (*url.URL, error) {
	if r.Response != nil {
		return nil, errRedirected
	}
	return http.ProxyFromEnvironment(r)
}

// exportFailure returns what an error of the exporter says. The collector knows the values of our headers, and
// could write a part of them into anything that it sends, so the log has none of its text.
func exportFailure(err error) string {
	var (
		full        queueFull
		certificate *tls.CertificateVerificationError
		network     *net.OpError
	)
	switch all := err.Error(); {
	case errors.As(err, &full):
		return full.Error()
	case errors.Is(err, errRedirected):
		return errRedirected.Error()
	case errors.As(err, &certificate):
		return "the certificate of the collector is not valid here; see OTEL_EXPORTER_OTLP_CERTIFICATE"
	case errors.As(err, &network):
		return text.Line(network.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "the collector did not answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the collector closed the connection"
	case strings.Contains(all, "failed to send to "):
		return "the collector answers with status " + cmp.Or(status(all), "unknown")
	case strings.Contains(all, "retry-able request failure: "):
		return "the collector answers that it can take no spans now"
	case strings.Contains(all, "OTLP partial success: "):
		return "the collector has not accepted all spans"
	}
	return "the collector sent no valid answer"
}

// status returns the status code in a message of the library: failed to send to URL: 401 Reason (body: Text).
func status(message string) string {
	_, rest, _ := strings.Cut(message, "failed to send to ")
	_, rest, _ = strings.Cut(rest, ": ")
	code, _, _ := strings.Cut(rest, " ")
	if _, err := strconv.ParseUint(code, 10, 16); err != nil || len(code) != 3 {
		return ""
	}
	return code
}
