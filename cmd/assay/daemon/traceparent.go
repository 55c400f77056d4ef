package daemon

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// parent returns the span of the client that a request is part of, as its header traceparent says (W3C
// Trace Context). It is not valid unless the header has one valid value. The headers tracestate and
// baggage are not read: a client can put any text into them, and spans are exported.
func parent(r *http.Request) trace.SpanContext {
	values := r.Header["Traceparent"]
	if len(values) != 1 {
		return trace.SpanContext{}
	}
	found := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": values[0]})
	return trace.SpanContextFromContext(found)
}

// traceID returns the id of the trace of a request, 32 hexadecimal digits, "" if there is none. span is
// that of the request, nil without tracing.
func traceID(span trace.Span, r *http.Request) string {
	of := parent(r)
	if span != nil {
		of = span.SpanContext()
	}
	if !of.HasTraceID() {
		return ""
	}
	return of.TraceID().String()
}
