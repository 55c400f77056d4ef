package content

import (
	"context"
	"errors"
	"io"
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
	client := background{q.Client.Site()}
	if hot && !p.Knows(client.site) {
		return nil
	}
	next, first := p.Next(client.site, q.Req, time.Now())
	if len(next) > 0 {
		l.expecting(q.Path, func(ctx context.Context) { l.ahead(ctx, o, client, next) })
	}
	if !first || q.Req.Kind != request.Mod {
		return nil
	}
	path, req := q.Path, q.Req
	return func() {
		l.expecting(path, func(ctx context.Context) { l.ahead(ctx, o, client, l.afterMod(ctx, o, client, req)) })
	}
}

// expecting does work because of a request for a path, in a goroutine. A prediction that fails is no error.
func (l *Library) expecting(path string, do func(ctx context.Context)) {
	l.parts.scope.Go(func(ctx context.Context) {
		_ = l.parts.scope.Guard(path, func() error {
			do(ctx)
			return nil
		})
	})
}

// ahead fetches predicted files, and what follows from the go.mod files among them that are held, until the
// client is forgotten.
func (l *Library) ahead(ctx context.Context, o *Origin, client background, next []request.Request) {
	for len(next) > 0 {
		req := next[0]
		next = next[1:]
		fetch := l.predictor.Begin(client.site, req)
		if fetch == nil {
			return
		}
		switch l.prefetch(ctx, o, fetch, &Ask{Client: client, Req: req, Path: req.Path(), take: fetch.Take}) {
		case prefetchHeld:
			fetch.NotFetched(predict.Held)
			if req.Kind == request.Mod {
				next = append(next, l.afterMod(ctx, o, client, req)...)
			}
		case prefetchRefused:
			fetch.NotFetched(predict.NotNow)
		}
	}
}

// prefetch starts to fetch a file, unless memory is short, or its module is of another origin or not
// for every client.
func (l *Library) prefetch(ctx context.Context, o *Origin, fetch *predict.Fetch, q *Ask) Prefetch {
	budget := l.parts.options.memory.Fetches
	if budget.Used() > budget.Size()/2 || l.Origin(q.Req.Module) != o {
		return prefetchRefused
	}
	if o.Admit(ctx, q) != nil || !q.Sure() {
		return prefetchRefused
	}
	return o.Prefetch(ctx, q, func(ctx context.Context, ours bool, err error) { l.fetched(ctx, o, fetch, q, end{ours, err}) })
}

// end is how a prefetch has ended.
type end struct {
	ours bool // no other one, and no client, had begun it
	err  error
}

// fetched follows the end of a prefetch.
func (l *Library) fetched(ctx context.Context, o *Origin, fetch *predict.Fetch, q *Ask, end end) {
	client, err := background{q.Client.Site()}, end.err
	size, held := o.shelf.size(ctx, q.Req)
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
		l.ahead(ctx, o, client, l.afterMod(ctx, o, client, q.Req))
	}
}

// parseCost is how many bytes of memory parsing takes for each byte of a go.mod, at most.
const parseCost = 100

// afterMod returns what the client will probably request because of a go.mod, if there is time and
// memory to read it.
func (l *Library) afterMod(ctx context.Context, o *Origin, client background, req request.Request) []request.Request {
	select {
	case l.parsing.waiting <- struct{}{}:
		defer func() { <-l.parsing.waiting }()
	default:
		return nil
	}
	l.parsing.mu.Lock()
	defer l.parsing.mu.Unlock()
	object, err := o.shelf.open(ctx, client, req, req.Path())
	if err != nil {
		return nil
	}
	defer object.Close()
	size := object.Info().Size
	held := l.parts.options.memory.Fetches.Hold()
	defer held.Free()
	if size > predict.MaxMod || held.Try(parseCost*size) != nil {
		return nil
	}
	content, err := io.ReadAll(object)
	if err != nil {
		return nil
	}
	return l.predictor.AfterMod(client.site, module.Version{Path: req.Module, Version: req.Version}, content)
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
