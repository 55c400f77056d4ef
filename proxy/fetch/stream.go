package fetch

import (
	"context"
	"io"
	"time"

	"github.com/assay-proxy/assay/internal/spans"
)

// stream is the body of one response.
type stream struct {
	ctx    context.Context // of the request; as in net/http, it ends with the body
	cancel context.CancelCauseFunc
	sender *sender
	resp   response
	idle   *time.Timer
	budget time.Duration
	count  func(n int)
	got    int64
	end    bool       // of the body
	span   spans.Span // of the request
}

func newStream(ctx context.Context, cancel context.CancelCauseFunc, resp response, from *sender) *stream {
	idle := time.AfterFunc(from.client.budget.IdleBody, func() { cancel(errIdle) })
	idle.Stop()
	bytes := from.client.metrics.bytes.WithLabelValues(from.at.label)
	return &stream{
		ctx: ctx, cancel: cancel, sender: from, resp: resp, idle: idle, budget: from.client.budget.IdleBody,
		count: func(n int) { bytes.Add(float64(n)) },
	}
}

func (s *stream) size() int64 { return s.resp.ContentLength }

// Read reads a part of the body. The idle time runs only while Read waits for the upstream, not
// while our reader is busy with something else.
func (s *stream) Read(p []byte) (int, error) {
	s.idle.Reset(s.budget)
	n, err := s.resp.Body.Read(p)
	s.idle.Stop()
	s.count(n)
	s.got += int64(n)
	s.end = s.end || err == io.EOF || s.got == s.size()
	if err != nil && err != io.EOF && s.resp.away {
		err = s.sender.away(s.ctx, s.resp.Request.URL.Host, err)
	}
	return n, err
}

func (s *stream) close() {
	switch cause := context.Cause(s.ctx); {
	case s.end:
		s.span.End(outcomeOK, false)
	case cause == errIdle || cause == errSlow:
		s.span.End(outcomeTimeout, true)
	case cause != nil:
		s.span.End(outcomeCanceled, false)
	default:
		s.span.End(outcomeUnavailable, true)
	}
	s.idle.Stop()
	s.cancel(nil) // first: Close may wait for a connection that is dead
	_ = s.resp.Body.Close()
}
