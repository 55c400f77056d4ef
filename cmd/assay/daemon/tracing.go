package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/assay-proxy/assay/internal/text"
)

// tracing makes and exports a span for each request, except for those of machines: probes and scrapes.
type tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	machines map[string]bool // their paths
}

// Names of variables with the same meaning, the one for traces alone first.
var (
	traceEndpoints = [...]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}
	traceProtocols = [...]string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"}
	traceHeaders   = [...]string{"OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"}
)

// tracingWanted reports whether the environment asks for traces, see docs/monitoring.md. The error says
// what it asks for and does not get, without the values, which may be secrets.
func tracingWanted() (bool, error) {
	endpoint := cmp.Or(os.Getenv(traceEndpoints[0]), os.Getenv(traceEndpoints[1]))
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); {
	case strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true"), exporter == "none", exporter == "" && endpoint == "":
		return false, nil
	case exporter != "" && exporter != "otlp":
		return false, errors.New("OTEL_TRACES_EXPORTER is neither otlp nor none; correct it")
	}
	if protocol := cmp.Or(os.Getenv(traceProtocols[0]), os.Getenv(traceProtocols[1])); protocol != "" && protocol != "http/protobuf" {
		return false, errors.New("OTEL_EXPORTER_OTLP_PROTOCOL is not http/protobuf, the only protocol of this program; set it, and the endpoint to the port of the collector for it, usually 4318")
	}
	if at, err := url.Parse(endpoint); endpoint != "" && (err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https") {
		return false, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT is not an http or https URL; correct it")
	}
	for _, name := range traceHeaders {
		for entry := range strings.SplitSeq(os.Getenv(name), ",") {
			if strings.TrimSpace(entry) != "" && !strings.Contains(entry, "=") {
				return false, errors.New("an entry of " + name + " is not name=value; correct it")
			}
		}
	}
	return true, nil
}

// newTracing returns the tracing that the environment asks for, nil if it asks for none. The variables may be
// meant for all programs of a machine, so one that cannot be used is an error in the log, and does not stop
// the program.
func newTracing(version, prefix string, log *slog.Logger) *tracing {
	wanted, err := tracingWanted()
	if err != nil {
		log.Error("requests are not traced", "err", err)
	}
	if !wanted {
		return nil
	}
	t, err := startTracing(version, prefix, log)
	if err != nil {
		log.Error("requests are not traced", "err", withoutHeaders(err))
		return nil
	}
	log.Info("requests are traced")
	return t
}

// startTracing starts the exporter. What the library reads wrongly from the environment it reports through
// its global error handler; its global logger would write values of headers, which are secrets, to
// standard error.
func startTracing(version, prefix string, log *slog.Logger) (*tracing, error) {
	otel.SetLogger(logr.Discard())
	var refused []error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { refused = append(refused, err) }))
	exporter, err := otlptracehttp.New(context.Background()) // sends nothing yet
	if err != nil {
		return nil, err
	}
	about, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "assay"), attribute.String("service.version", version)), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	if err := errors.Join(refused...); err != nil {
		_ = provider.Shutdown(context.Background()) // it has no spans
		return nil, err
	}
	otel.SetErrorHandler(&exportErrors{log: log})
	t := &tracing{provider: provider, tracer: provider.Tracer("github.com/assay-proxy/assay"), machines: map[string]bool{}}
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		t.machines[prefix+path] = true
	}
	return t, nil
}

// begin begins the span of a request, and returns the request with it. Without tracing it returns r.
func (t *tracing) begin(out *observed, r *http.Request) *http.Request {
	if t == nil || t.machines[r.URL.Path] {
		return r
	}
	method := r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		method = "_OTHER" // it is any word of the client
	}
	ctx := trace.ContextWithRemoteSpanContext(r.Context(), parent(r))
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
	if out.status >= http.StatusInternalServerError {
		out.span.SetStatus(codes.Error, "")
	}
	out.span.End()
}

// flushTime limits the export of the last spans: a collector that does not answer must not delay the end of
// the program for long.
const flushTime = 5 * time.Second

// close exports the last spans.
func (t *tracing) close(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(fmt.Errorf("the last spans are lost: %w", err))
	}
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
	e.log.Warn("spans cannot be exported; requests are not affected", "err", withoutHeaders(err), "more", omitted)
}

// withoutHeaders returns the text of an error of the exporter without the values of the headers that it sends:
// the text may have what the collector has answered.
func withoutHeaders(err error) string {
	line := text.Line(err.Error())
	for _, name := range traceHeaders {
		for entry := range strings.SplitSeq(os.Getenv(name), ",") {
			_, value, _ := strings.Cut(entry, "=")
			value = strings.TrimSpace(value)
			plain, err := url.PathUnescape(value)
			if value == "" || err != nil {
				continue
			}
			line = strings.ReplaceAll(strings.ReplaceAll(line, value, "xxxxx"), plain, "xxxxx")
		}
	}
	return line
}
