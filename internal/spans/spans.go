// Package spans says in a trace what happens to a request: events that explain its time or its answer, and child
// spans for the work that it causes.
//
// A trace leaves this program. So it can say nothing that a client, an upstream or a repository has chosen: what
// this package writes are its own constants, and values that metrics have as labels. The path of a public module
// is the only exception, see Answer.
//
// Without a span in the context, which is so while tracing is off, every function returns at once.
package spans

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Event is something that happens to a request.
type Event string

const (
	BreakerOpen Event = "breaker_open" // an upstream was not asked: its circuit breaker is open
	ServedStale Event = "served_stale" // the answer is an older one
	Coalesced   Event = "coalesced"    // the request waits for work that another one has caused
	NegativeHit Event = "negative_hit" // a remembered absence, or a remembered failure of a checksum database
	Shed        Event = "shed"         // it was refused because too much runs or waits
)

// Note adds an event to the span of ctx.
func Note(ctx context.Context, e Event) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent(string(e))
	}
}

// Work is what a child span is about.
type Work string

const (
	Fill     Work = "fill"     // an object is fetched, proved and stored; of a kind of object
	Renew    Work = "renew"    // a new answer is requested; of a kind of object
	Upstream Work = "upstream" // a request to an upstream, until its body has arrived; of an upstream
	Database Work = "sumdb"    // a record or a file of a checksum database, and its proof; of a database
	Command  Work = "vcs"      // a run of the go command; of the command's name
)

// scope is the name of the instrumentation.
const scope = "github.com/assay-proxy/assay"

// Span is a child span. The zero Span is none.
type Span struct{ span trace.Span }

// Begin begins a child span of that of ctx. The caller ends it. of is the value of a label of metrics.
func Begin(ctx context.Context, w Work, of string) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx) // it may have ended before
	if !parent.SpanContext().IsSampled() {
		return ctx, Span{}
	}
	kind := trace.SpanKindInternal
	if w == Upstream {
		kind = trace.SpanKindClient
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, string(w), trace.WithSpanKind(kind), trace.WithAttributes(attribute.String("assay.of", of)))
	return ctx, Span{span}
}

// End ends s. The outcome is the value of a label of metrics. Only the first call counts.
func (s Span) End(outcome string, failed bool) {
	if s.span == nil {
		return
	}
	s.span.SetAttributes(attribute.String("assay.outcome", outcome))
	if failed {
		s.span.SetStatus(codes.Error, "")
	}
	s.span.End()
}

// Cause is the span of the request that has caused work, which others may join. The zero Cause is none.
type Cause struct{ span trace.Span }

// CauseOf returns the span of ctx.
func CauseOf(ctx context.Context) Cause {
	if span := trace.SpanFromContext(ctx); span.SpanContext().IsSampled() {
		return Cause{span}
	}
	return Cause{}
}

// In returns ctx for the work: its spans are children of that of the request, which may end before.
func (c Cause) In(ctx context.Context) context.Context {
	if c.span == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, c.span)
}

// Join notes that the request of ctx waits for the work, and links its span to that of the cause.
func (c Cause) Join(ctx context.Context) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.AddEvent(string(Coalesced))
	if c.span != nil {
		span.AddLink(trace.Link{SpanContext: c.span.SpanContext()})
	}
}

// Answer is how a request was answered.
type Answer interface {
	Route() string  // the pattern of its path
	Result() string // as metrics have it

	// PublicModule returns the path of the requested module, "" if that is private or there is none.
	PublicModule() string
}

// longest is how many bytes of a module path a span has.
const longest = 200

// Answered says in the span of ctx how its request was answered.
func Answered(ctx context.Context, a Answer) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	Routed(ctx, a.Route())
	span.SetAttributes(attribute.String("assay.result", a.Result()))
	if path := a.PublicModule(); path != "" {
		span.SetAttributes(attribute.String("assay.module", path[:min(len(path), longest)]))
	}
}

// Routed says in the span of ctx which pattern the path of its request has.
func Routed(ctx context.Context, route string) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetName(route)
		span.SetAttributes(attribute.String("http.route", route))
	}
}
