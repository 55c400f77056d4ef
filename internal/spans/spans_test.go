package spans_test

import (
	"context"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/assay-proxy/assay/internal/spans"
)

// answer is an answer about a module.
type answer struct {
	asked  *int
	module string
}

func (a answer) Route() string        { *a.asked++; return "/{module}/@v/list" }
func (a answer) Result() string       { *a.asked++; return "hit" }
func (a answer) PublicModule() string { *a.asked++; return a.module }

// Without a span nothing is allocated, and nothing is asked.
func TestOff(t *testing.T) {
	asked := 0
	var a spans.Answer = answer{&asked, "example.com/a"}
	ctx := t.Context()
	n := testing.AllocsPerRun(100, func() {
		spans.Note(ctx, spans.Shed)
		next, span := spans.Begin(ctx, spans.Fill, "mod")
		span.End("ok", false)
		cause := spans.CauseOf(ctx)
		if cause.In(ctx) != ctx || next != ctx {
			t.Error("the context has changed")
		}
		cause.Join(ctx)
		spans.Routed(ctx, "/")
		spans.Answered(ctx, a)
	})
	if n != 0 || asked != 0 {
		t.Errorf("%v allocations, %d questions", n, asked)
	}
}

// Spans and events are in the trace of the request, also for work in another context; a long name is cut.
func TestSpans(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	request := func() (context.Context, func()) {
		ctx, span := provider.Tracer("test").Start(t.Context(), "request")
		return ctx, func() { span.End() }
	}
	first, endFirst := request()
	second, endSecond := request()
	cause := spans.CauseOf(first)
	asked := 0
	spans.Answered(first, answer{&asked, strings.Repeat("x", 5000)})
	endFirst() // its work continues
	work, fill := spans.Begin(cause.In(t.Context()), spans.Fill, "zip")
	_, upstream := spans.Begin(work, spans.Upstream, "https://a.example")
	spans.Note(work, spans.BreakerOpen)
	upstream.End("timeout", true)
	upstream.End("ok", false) // too late
	fill.End("ok", false)
	cause.Join(second)
	spans.Answered(second, answer{&asked, ""})
	endSecond()

	var got []string
	for _, s := range recorder.Ended() {
		line := s.Name() + " " + s.Status().Code.String()
		for _, a := range s.Attributes() {
			line += " " + string(a.Key) + "=" + strings.ReplaceAll(a.Value.AsString(), strings.Repeat("x", 200), "200x")
		}
		for _, e := range s.Events() {
			line += " " + e.Name
		}
		for _, l := range s.Links() {
			if l.SpanContext.SpanID() == recorder.Ended()[0].SpanContext().SpanID() {
				line += " →first"
			}
		}
		if s.Parent().SpanID() == recorder.Ended()[0].SpanContext().SpanID() {
			line += " of first"
		}
		got = append(got, line)
	}
	want := []string{
		"/{module}/@v/list Unset http.route=/{module}/@v/list assay.result=hit assay.module=200x",
		"upstream Error assay.of=https://a.example assay.outcome=timeout",
		"fill Unset assay.of=zip assay.outcome=ok breaker_open of first",
		"/{module}/@v/list Unset http.route=/{module}/@v/list assay.result=hit coalesced →first",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("spans:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
