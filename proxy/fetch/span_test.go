package fetch_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/assay-proxy/assay/internal/memory"
)

// The span of a request does not blame the upstream if our memory has no room for the answer.
func TestSpanWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.serve("host", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a longer answer") })
		c := n.list("http://host")
		recorder := tracetest.NewSpanRecorder()
		ctx, span := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("").Start(t.Context(), "request")
		defer span.End()
		hold := memory.New(1).Hold()
		if _, _, err := c.ReadAll(hold.Context(ctx), zipPath, 100); !errors.Is(err, memory.ErrFull) {
			t.Fatalf("ReadAll: %v", err)
		}
		ended := recorder.Ended()
		if len(ended) != 1 {
			t.Fatalf("%d spans", len(ended))
		}
		if s := ended[0]; s.Status().Code == codes.Error || !slices.Contains(s.Attributes(), attribute.String("assay.outcome", "canceled")) {
			t.Errorf("the span has the status %v and the attributes %v", s.Status(), s.Attributes())
		}
	})
}
