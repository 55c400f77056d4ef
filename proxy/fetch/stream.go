package fetch

import (
	"context"
	"io"
	"time"
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
}

func newStream(ctx context.Context, cancel context.CancelCauseFunc, resp response, from *sender) *stream {
	idle := time.AfterFunc(from.client.budget.IdleBody, func() { cancel(errIdle) })
	idle.Stop()
	bytes := from.client.metrics.bytes.WithLabelValues(from.at.label)
	return &stream{ctx, cancel, from, resp, idle, from.client.budget.IdleBody, func(n int) { bytes.Add(float64(n)) }}
}

func (s *stream) size() int64 { return s.resp.ContentLength }

// Read reads a part of the body. The idle time runs only while Read waits for the upstream, not
// while our reader is busy with something else.
func (s *stream) Read(p []byte) (int, error) {
	s.idle.Reset(s.budget)
	n, err := s.resp.Body.Read(p)
	s.idle.Stop()
	s.count(n)
	if err != nil && err != io.EOF && s.resp.away {
		err = s.sender.away(s.ctx, s.resp.Request.URL.Host, err)
	}
	return n, err
}

func (s *stream) close() {
	s.idle.Stop()
	s.cancel(nil) // first: Close may wait for a connection that is dead
	_ = s.resp.Body.Close()
}
