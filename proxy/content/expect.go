package content

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/request"
)

// Predict makes Expect work. It is called before the first request.
func (l *Library) Predict() {
	l.predictor = predict.New()
	l.parsing.waiting = make(chan struct{}, maxParsing)
	l.parts.rooms.objectsAhead.pause.predicting, l.parts.rooms.zipsAhead.pause.predicting = true, true
}

// Expect fetches what the client of q will probably request next. proxy calls it for each request
// that a client may make, before it answers, and after an answer without error calls what Expect
// returns, if that is not nil: then a go.mod is held. Neither delays the answer. hot says that the object
// of q is in memory: that alone is no reason to remember a client, since a client whose requests are all
// hits needs no predictions.
func (l *Library) Expect(o *Origin, q *Ask, hot bool) (answered func()) {
	p := l.predictor
	if p == nil || !o.fills.predicted || q.HeldOnly {
		return nil
	}
	e := expecting{l, o, background{q.Client.Site()}}
	if hot && !p.Knows(e.client.site) {
		return nil
	}
	next, first := p.Next(e.client.site, q.Req, time.Now())
	if len(next) > 0 {
		e.start(q.Path, func(ctx context.Context) { e.ahead(ctx, next) })
	}
	if !first || q.Req.Kind != request.Mod {
		return nil
	}
	path, req := q.Path, q.Req
	return func() {
		e.start(path, func(ctx context.Context) { e.ahead(ctx, e.afterMod(ctx, req)) })
	}
}

// expecting fetches what a client will probably request next of an origin.
type expecting struct {
	*Library
	origin *Origin
	client background
}

// start does work because of a request for a path, in a goroutine. A prediction that fails is no error.
func (e expecting) start(path string, do func(ctx context.Context)) {
	e.parts.scope.Go(func(ctx context.Context) {
		_ = e.parts.scope.Guard(path, func() error {
			do(ctx)
			return nil
		})
	})
}

// aheadAtOnce is how many predicted files are looked for in the store at a time: a bucket may be far away.
const aheadAtOnce = 8

// ahead fetches predicted files, and what follows from the go.mod files among them that are held, until the
// client is forgotten.
func (e expecting) ahead(ctx context.Context, next []request.Request) {
	for len(next) > 0 {
		now := next[:min(aheadAtOnce, len(next))]
		next = next[len(now):]
		held := make([]bool, len(now))
		var all sync.WaitGroup
		for i, req := range now {
			all.Go(func() {
				_ = e.parts.scope.Guard(req.Path(), func() error {
					held[i] = e.aheadOne(ctx, req)
					return nil
				})
			})
		}
		all.Wait()
		for i, req := range now {
			if held[i] && req.Kind == request.Mod {
				next = append(next, e.afterMod(ctx, req)...)
			}
		}
	}
}

// aheadOne fetches a predicted file, and reports whether it is held already.
func (e expecting) aheadOne(ctx context.Context, req request.Request) (held bool) {
	fetch := e.predictor.Begin(e.client.site, req)
	if fetch == nil {
		return false
	}
	became, size := e.prefetch(ctx, fetch, &Ask{Client: e.client, Req: req, Path: req.Path(), take: fetch.Take})
	switch became {
	case prefetchHeld:
		fetch.NotFetched(predict.Held)
	case prefetchRead:
		fetch.Fetched(size)
	case prefetchRefused:
		fetch.NotFetched(predict.NotNow)
	}
	return became == prefetchHeld || became == prefetchRead
}

// prefetch starts to fetch a file, unless memory is short, or its module is of another origin or not
// for every client.
func (e expecting) prefetch(ctx context.Context, fetch *predict.Fetch, q *Ask) (became Prefetch, size int64) {
	budget := e.parts.options.memory.Fetches
	if budget.Used() > budget.Size()/2 || e.Origin(q.Req.Module) != e.origin {
		return prefetchRefused, 0
	}
	if e.origin.Admit(ctx, q) != nil || !q.Sure() {
		return prefetchRefused, 0
	}
	return e.origin.Prefetch(ctx, q, func(ctx context.Context, ours bool, err error) { e.fetched(ctx, fetch, q, end{ours, err}) })
}

// end is how a prefetch has ended.
type end struct {
	ours bool // no other one, and no client, had begun it
	err  error
}

// fetched follows the end of a prefetch.
func (e expecting) fetched(ctx context.Context, fetch *predict.Fetch, q *Ask, end end) {
	err := end.err
	size, held := e.origin.shelf.size(ctx, q.Req)
	switch {
	case err == nil && held && end.ours:
		fetch.Fetched(size)
	case err == nil && held:
		fetch.NotFetched(predict.Held)
	case !end.ours || errors.Is(err, places.ErrYielded) || errors.Is(err, places.ErrLeft) || errors.Is(err, memory.ErrFull) || noZips(err):
		fetch.NotFetched(predict.NotNow)
	default:
		fetch.NotFetched(predict.Failed)
	}
	if err == nil && held && q.Req.Kind == request.Mod {
		e.ahead(ctx, e.afterMod(ctx, q.Req))
	}
}

// parseCost is how many bytes of memory parsing takes for each byte of a go.mod, at most.
const parseCost = 100

// afterMod returns what the client will probably request because of a go.mod, if there is time and
// memory to read it.
func (e expecting) afterMod(ctx context.Context, req request.Request) []request.Request {
	select {
	case e.parsing.waiting <- struct{}{}:
		defer func() { <-e.parsing.waiting }()
	default:
		return nil
	}
	e.parsing.mu.Lock()
	defer e.parsing.mu.Unlock()
	object, err := e.origin.shelf.open(ctx, e.client, req, req.Path())
	if err != nil {
		return nil
	}
	defer object.Close()
	size := object.Info().Size
	held := e.parts.options.memory.Fetches.Hold()
	defer held.Free()
	if size > predict.MaxMod || held.Try(parseCost*size) != nil {
		return nil
	}
	content, err := io.ReadAll(object)
	if err != nil {
		return nil
	}
	return e.predictor.AfterMod(e.client.site, module.Version{Path: req.Module, Version: req.Version}, content)
}

// background is the Client of a prediction. It has no credential: what is predicted is fetched only
// if every client may read it.
type background struct{ site string }

func (c background) Key() string       { return predictionFor + c.site }
func (c background) Request() string   { return "" }
func (c background) Site() string      { return c.site }
func (background) Keep(int) error      { return nil }
func (background) HasCredential() bool { return false }
func (background) Covers(string) bool  { return true }
func (background) In(string) bool      { return false }
func (background) Limited() bool       { return false }
