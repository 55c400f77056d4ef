package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/internal/panics"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/predict"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// upstreams gets public modules from a list of other proxies, and where the list says
// direct from their repositories.
type upstreams struct {
	parts    *parts
	settings *gate.Settings
	gate     *gate.Gate
	proof    *byDatabase
	shelf    *shelf
	answers  *answers
	direct   *repository
	infos    *infoSource

	current        func(*gate.Settings) bool  // whether they are in force
	recentlyFailed memo.Map[string, struct{}] // keys, see noteFailed
}

func (u *upstreams) reachable() bool { return !u.settings.Offline() }

func (u *upstreams) spared() bool { return u.settings.Spared() }

func (u *upstreams) unheld(request.Request) error { return ErrOffline }

func (u *upstreams) served(req request.Request, stored time.Time) {
	if req.Kind == request.Info && u.reachable() {
		u.infos.served(req, stored)
	}
}

func (u *upstreams) pushed(string) push { return push{} }

func (u *upstreams) fill(ctx context.Context, f *fill) error {
	fill := u.fillZip
	switch f.req.Kind {
	case request.Info:
		fill = u.fillInfo
	case request.Mod:
		fill = u.fillMod
	}
	err := u.parts.scope.Guard(f.key, func() error { return fill(ctx, f) })
	u.noteFailed(f.key, err)
	if errors.Is(err, fetch.ErrDirect) {
		if err := f.unwanted(); err != nil { // a clone may be large
			return err
		}
		return u.direct.fill(ctx, f)
	}
	return err
}

// fillInfo fetches an .info.
func (u *upstreams) fillInfo(ctx context.Context, f *fill) error {
	held := u.parts.options.memory.Fetches.HoldFor(ctx)
	defer held.Free()
	data, source, err := u.infos.fetch(held.Context(ctx), f.req, "")
	if err != nil {
		return err
	}
	if err := f.spend(int64(len(data))); err != nil {
		return err
	}
	u.parts.infos.note(f.key, source, time.Time{})
	return u.shelf.create(ctx, f.req, infoOf(data, ""), bytes.NewReader(data))
}

// fillMod fetches a go.mod and, at the same time, its record.
func (u *upstreams) fillMod(ctx context.Context, f *fill) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, chain, err := u.gate.Upstream(ctx, f.req.Module)
	if err != nil {
		return err
	}
	record := soon(ctx, u.parts, f.req, u.proof.statement)
	held := u.parts.options.memory.Fetches.HoldFor(ctx) // before any other memory: a fill that waits for memory must hold none
	defer held.Free()
	data, source, err := u.readMod(held.Context(ctx), chain, f)
	if err != nil {
		return said(err)
	}
	if err := f.spend(int64(len(data))); err != nil {
		return err
	}
	stated, err := record(ctx)
	if err != nil {
		return err
	}
	got, err := hashMod(bytes.NewReader(data))
	if err != nil {
		return err
	}
	if err := u.proof.compare(f.req, source, got, stated.hash); err != nil {
		return err
	}
	if stated.hash == "" && modfile.ModulePath(data) == "" {
		return fmt.Errorf("%w: %s: the go.mod has no module line", ErrGarbage, source)
	}
	info := storage.Info{Size: int64(len(data)), Hash: got, Proof: u.proof.proofFor(stated.hash)}
	if err := u.shelf.createProved(ctx, f.req, info, data, stated.proof); err != nil {
		return err
	}
	u.infos.proved(ctx, f.req, source)
	return nil
}

// readMod reads a go.mod. A large one takes memory only for a client.
func (u *upstreams) readMod(ctx context.Context, chain *fetch.Chain, f *fill) (data []byte, source string, err error) {
	if f.ahead != nil {
		data, source, err = chain.ReadAll(ctx, f.key, predict.MaxMod)
		if !errors.Is(err, fetch.ErrTooLarge) {
			return data, source, err
		}
		if err := f.unwanted(); err != nil {
			return nil, "", err
		}
	}
	return chain.ReadAll(ctx, f.key, modLimit)
}

// soon starts a lookup for req, and returns a function that waits for its result, at most
// until a context ends. The result of the upstream counts first: if it does not have the
// object, it does not matter whether the database has a record.
func soon[T any](ctx context.Context, p *parts, req request.Request, look func(context.Context, request.Request) (T, error)) func(context.Context) (T, error) {
	var (
		value T
		err   error
		done  = make(chan struct{})
	)
	p.scope.Go(func(context.Context) {
		defer close(done)
		err = p.scope.Guard(req.Path(), func() (err error) {
			value, err = look(ctx, req)
			return err
		})
	})
	return func(ctx context.Context) (T, error) {
		select {
		case <-done:
			return value, err
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
}

// fillZip fetches a zip into a draft of the store and, at the same time, its record, and
// hashes what has arrived. As soon as the size of the zip and its wanted hash are known,
// clients can follow the draft.
func (u *upstreams) fillZip(ctx context.Context, f *fill) error {
	ctx, chain, err := u.gate.Upstream(ctx, f.req.Module)
	if err != nil {
		return err
	}
	if err := u.receive(ctx, f); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	record := soon(ctx, u.parts, f.req, u.proof.wanted)
	object, err := chain.Fetch(ctx, f.key, zipLimit)
	if err != nil {
		return said(err)
	}
	defer object.Body.Close()
	f.size = object.Size
	if f.size >= 0 { // otherwise what arrives is counted, see arrival
		if err := f.spend(f.size); err != nil {
			return err
		}
	}

	var want string
	ahead := modzip.NewAhead(f.arrived, u.parts.zips.scratch)
	defer ahead.Close()
	arrived := make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(arrived)
		defer context.AfterFunc(gctx, func() { object.Body.Close() })() // without a record the zip is useless: stop the download
		return panics.Catch(func() error {
			_, err := io.CopyBuffer(newArrival(f), struct{ io.Reader }{object.Body}, make([]byte, 128<<10))
			f.claim.Rest() // the fill now waits for the record
			return err
		})
	})
	g.Go(func() error {
		return panics.Catch(func() error {
			u.parts.zips.follow(gctx, ahead, f.arrived, f.size, arrived)
			return nil
		})
	})
	g.Go(func() (err error) {
		if want, err = record(gctx); err != nil {
			return err
		}
		if f.hash = want; want != "" && f.size > holdBack && !u.hasFailed(f.key) {
			close(f.started)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	f.claim.Firm()
	return u.proveZip(ctx, f, ahead, object.Source, want)
}

// receive opens the draft for the zip of f. It is not proved yet: it gets its key only from
// proveZip.
func (u *upstreams) receive(ctx context.Context, f *fill) error {
	store, err := u.gate.Store(f.req.Module)
	if err != nil {
		return err
	}
	draft, err := store.Draft(ctx, -1)
	if err == nil {
		f.arrived = newArrived(draft)
	}
	return err
}

// proveZip checks the complete zip in the draft of f, of which ahead has hashed a part, and
// stores it.
func (u *upstreams) proveZip(ctx context.Context, f *fill, ahead *modzip.Ahead, source, want string) error {
	size, _ := f.arrived.readable()
	got, err := u.parts.zips.hashRest(ctx, f.arrived, size, ahead)
	ahead.Close() // the disk space is for the store now
	switch {
	case errors.Is(err, modzip.ErrFormat) && want != "":
		// There is a record, so an unreadable zip is a mismatch like any other.
		got = notZip(err)
	case errors.Is(err, modzip.ErrFormat):
		return fmt.Errorf("%w: %s: %w", ErrGarbage, source, err)
	case err != nil:
		return err
	}
	if err := u.proof.compare(f.req, source, got, want); err != nil {
		return err
	}
	if want == "" {
		if err := u.parts.zips.check(ctx, f.req.ModuleVersion(), f.arrived, size); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrGarbage, source, err)
		}
	}
	if err := modzip.CheckShape(f.arrived, size); err != nil {
		u.parts.options.log.Error("zip refused: it has bytes that are not covered by its hash", "module", f.req.Module, "version", f.req.Version, "source", source, "err", err)
		return fmt.Errorf("%s: %w", source, err)
	}
	info := storage.Info{Size: size, Hash: got, Proof: u.proof.proofFor(want)}
	f.stored, err = u.shelf.commit(ctx, f.req, info, f.arrived)
	if errors.Is(err, storage.ErrNotKept) && f.unwanted() == nil {
		err = nil // the clients that wait get it
	}
	if err != nil {
		return err
	}
	info.Key = u.shelf.keyFor(f.req, info)
	f.proved = &info
	u.infos.proved(ctx, f.req, source)
	return nil
}

// maxRecentlyFailed limits the memory of noteFailed; beyond it some clients see a broken
// transfer instead of an error text.
const maxRecentlyFailed = 1000

// noteFailed notes that content for a key was refused, or could not be stored. The next
// content for it is not streamed until a fill succeeds, so that the client gets an error
// text and no broken transfer.
func (u *upstreams) noteFailed(key string, err error) {
	var mismatch *MismatchError
	switch {
	case err == nil:
		u.recentlyFailed.Delete(key)
	case errors.As(err, &mismatch), errors.Is(err, modzip.ErrShape), errors.Is(err, fetch.ErrTooLarge), errors.Is(err, errDefect), IsFull(err):
		u.recentlyFailed.Put(key, struct{}{})
	}
}

func (u *upstreams) hasFailed(key string) bool {
	_, ok := u.recentlyFailed.Get(key)
	return ok
}

// ask gets an answer from the upstreams, or where the list says direct from the module's
// repository.
func (u *upstreams) ask(ctx context.Context, req request.Request) (*Answer, error) {
	ctx, chain, err := u.gate.Upstream(ctx, req.Module)
	if err != nil {
		return nil, err
	}
	held := u.parts.options.memory.Fetches.HoldFor(ctx)
	defer held.Free()
	begin := time.Now()
	data, source, err := chain.ReadWith(held.Context(ctx), req.Path(), func(read fetch.Reader, source string) ([]byte, error) {
		data, err := read(req.Path(), listLimit)
		if req.Kind == request.Latest && notfound.Is(err) {
			return latestOfList(req.Module, read, source, err)
		}
		return data, err
	})
	if errors.Is(err, fetch.ErrDirect) {
		return u.direct.ask(ctx, req)
	}
	if err != nil {
		return nil, said(err)
	}
	if err := held.Try(listHalves * int64(len(data)) / 2); err != nil {
		return nil, err
	}
	m, err := parseAnswer(req, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrGarbage, source, err)
	}
	m.fetched = begin // its age counts from the question
	return u.answers.keep(ctx, req, m), nil
}
