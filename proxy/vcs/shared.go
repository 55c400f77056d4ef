package vcs

import (
	"context"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/places"
)

// questions are the current questions, each asked once for all concurrent callers. They
// continue when their callers have left: the next caller needs the answer of a slow host,
// too.
type questions struct {
	timeout time.Duration // of each
	scope   *flight.Scope
	group   *flight.Group[any]
}

func newQuestions(timeout time.Duration) *questions {
	scope := flight.NewScope(flight.Config{})
	return &questions{timeout, scope, flight.NewGroup[any](scope)}
}

// close cancels all questions and waits for them.
func (q *questions) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = q.scope.Close(ctx) // its error is that of ctx
}

// share calls f once for all concurrent callers with the same key, with the values of the
// first caller's context.
func share[T any](ctx context.Context, q *questions, key string, f func(context.Context) (T, error)) (result T, err error) {
	question, _, err := q.group.Join(places.For{}, flight.Work[any]{Key: key, Do: func(life context.Context, answer *flight.Flight[any]) (err error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.timeout)
		defer cancel()
		stop := context.AfterFunc(life, cancel)
		defer stop()
		answer.Value, err = f(ctx)
		return err
	}})
	if err != nil {
		return result, err
	}
	answer, err := question.Wait(ctx)
	result, _ = answer.(T)
	return result, err
}
