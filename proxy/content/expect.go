package content

import (
	"context"
	"io"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/request"
)

// Predict makes Expect work. It is called before the first request.
func (l *Library) Predict() { l.predictor = predict.New() }

// Expect fetches what the client of q will probably request next. proxy calls it for each request
// that a client may make: before it answers, and for a go.mod after that, when the go.mod is held. It
// does not delay the answer.
func (l *Library) Expect(o *Origin, q *Ask) {
	p := l.predictor
	if p == nil || !o.fills.predicted || q.HeldOnly {
		return
	}
	client := background{q.Client.Site()}
	next := p.Next(client.Key(), q.Req, time.Now())
	if len(next) == 0 && q.Req.Kind != request.Mod {
		return
	}
	req := q.Req
	l.parts.scope.Go(func(ctx context.Context) {
		_ = l.parts.scope.Guard(req.Path(), func() error { // a prediction that fails is no error
			if req.Kind == request.Mod {
				next = l.afterMod(ctx, o, client, req)
			}
			for _, req := range next {
				l.prefetch(ctx, o, &Ask{Client: client, Req: req, Path: req.Path()})
			}
			return nil
		})
	})
}

// afterMod returns what the client will probably request after a go.mod.
func (l *Library) afterMod(ctx context.Context, o *Origin, client background, req request.Request) []request.Request {
	object, err := o.shelf.open(ctx, client, req, req.Path())
	if err != nil {
		return nil
	}
	defer object.Close()
	if object.Info().Size > predict.MaxMod {
		return nil
	}
	content, err := io.ReadAll(object)
	if err != nil {
		return nil
	}
	return l.predictor.AfterMod(client.Key(), module.Version{Path: req.Module, Version: req.Version}, content, time.Now())
}

// prefetch fetches the object of q, unless memory is short, or its module is of another origin or not
// for every client.
func (l *Library) prefetch(ctx context.Context, o *Origin, q *Ask) {
	budget := l.parts.options.memory.Fetches
	if budget.Used() > budget.Size()/2 || l.Origin(q.Req.Module) != o {
		return
	}
	if err := o.Admit(ctx, q); err == nil && q.Sure() {
		o.Prefetch(ctx, q)
	}
}

// background is the Client of a prediction. It has no credential: what is predicted is fetched only
// if every client may read it.
type background struct{ site string }

func (c background) Key() string       { return "prediction for " + c.site }
func (c background) Request() string   { return "" }
func (c background) Site() string      { return c.site }
func (background) Keep(int) error      { return nil }
func (background) HasCredential() bool { return false }
func (background) Covers(string) bool  { return true }
func (background) In(string) bool      { return false }
func (background) Limited() bool       { return false }
