package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// tracing makes and exports a span for each request, except for those of machines: probes and scrapes.
type tracing struct {
	provider *sdktrace.TracerProvider // nil: off
	tracer   trace.Tracer
	machines map[string]bool // their paths
	dropped  prometheus.Counter
}

// newTracing returns tracing that is off.
func newTracing() *tracing {
	return &tracing{dropped: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "assay_trace_spans_dropped_total",
		Help: "Spans that are lost: the queue had no place for them, or the collector did not take all spans of their export.",
	})}
}

// start begins to trace if the environment asks for it. The variables may be meant for all programs of a
// machine, so one that cannot be used is an error in the log, and does not stop the program.
func (t *tracing) start(version, prefix string, log *slog.Logger) {
	wanted, err := tracingWanted()
	if wanted {
		err = t.export(version, log)
	}
	if err != nil {
		log.Error("requests are not traced", "err", withoutHeaders(err))
	}
	if t.provider == nil {
		return
	}
	t.tracer, t.machines = t.provider.Tracer("github.com/assay-proxy/assay"), map[string]bool{}
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		t.machines[prefix+path] = true
	}
	log.Info("requests are traced")
}

// maxAnswer is more than any answer of a collector needs.
const maxAnswer = 64 << 10

// export starts the exporter. What the library cannot read in the environment it reports through its global error
// handler or its global logger, which would otherwise write values of headers, which are secrets, to standard
// error.
func (t *tracing) export(version string, log *slog.Logger) error {
	unread := &ignored{}
	otel.SetLogger(logr.New(unread))
	defer otel.SetLogger(logr.Discard())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { unread.errs = append(unread.errs, err) }))
	exporter, err := otlptracehttp.New(context.Background(), // sends nothing yet
		otlptracehttp.WithProxy(noRedirect), otlptracehttp.WithMaxResponseSize(maxAnswer))
	if err != nil {
		return errors.Join(append(unread.errs, err)...)
	}
	about, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "assay"), attribute.String("service.version", version)), resource.WithFromEnv())
	if err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(newSpanQueue(exporter, t.dropped)), sdktrace.WithResource(about))
	if err := errors.Join(unread.errs...); err != nil {
		_ = provider.Shutdown(context.Background()) // it has no spans
		return err
	}
	otel.SetErrorHandler(&exportErrors{log: log})
	t.provider = provider
	return nil
}

// begin begins the span of a request, and returns the request with it. Without tracing it returns r. Only a
// trusted client decides to which trace the request belongs: a sampler reads the id of the trace, so any other client
// could have all its requests traced, or none.
func (t *tracing) begin(out *observed, r *http.Request, trusted bool) *http.Request {
	if t.provider == nil || t.machines[r.URL.Path] {
		return r
	}
	method := r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		method = "_OTHER" // it is any word of the client
	}
	ctx := r.Context()
	if trusted {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent(r))
	}
	ctx, out.span = t.tracer.Start(ctx, "other", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(out.begin),
		trace.WithAttributes(attribute.String("http.request.method", method)))
	return r.WithContext(ctx)
}

// end ends the span of a request, if it has one.
func (t *tracing) end(out *observed) {
	if out.span == nil {
		return
	}
	out.span.SetAttributes(attribute.Int("http.response.status_code", out.status))
	if out.status >= http.StatusInternalServerError || out.aborted {
		out.span.SetStatus(codes.Error, "")
	}
	out.span.End()
}

// flushTime limits the export of the last spans: a collector that does not answer must not delay the end of
// the program for long.
const flushTime = 5 * time.Second

// close exports the last spans.
func (t *tracing) close(ctx context.Context) {
	if t.provider == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(fmt.Errorf("the last spans are lost: %w", err))
	}
}
