package content

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/storage"
)

// Origin gets and proves modules, under one set of settings. There are two: one for
// public modules, one for private ones. Library.Origin chooses; the two differ only in
// their fields.
type Origin struct {
	Caching Caching

	parts    *parts
	gate     *gate.Gate
	audience audience
	registry registry
	source   source
	shelf    *shelf
	fills    *fills
	answers  *answers
	renewals *renewals
	absent   *absent

	inForce func() *Origin // returns this origin, or the one that replaced it in a reload
}

// Caching says which caches may store responses of an origin, as values of the header
// Cache-Control (RFC 9111). The values must not be changed.
type Caching struct {
	Object []string // never changes
	Answer []string // a list, a latest version or the commit of a branch
	Record string   // of a checksum database
	Errors bool     // errors may be cached for a moment
}

// Admit returns an error if the client may not read the module. It notes in q whether the
// repository of the module must be found first.
func (o *Origin) Admit(ctx context.Context, q *Ask) error { return o.audience.admit(ctx, q) }

// admitAgain checks once more, before the answer is sent, whether the client may read the
// module. Admit decided before the fetch. The fetch may have found the repository of the
// module, which other rules may protect, and a reload may have changed the rules. The
// error is that of Admit, or gate.ErrReloaded if the module is of the other origin now.
func (o *Origin) admitAgain(ctx context.Context, q *Ask) error {
	if _, err := o.gate.Check(q.Req.Module); err != nil {
		return err
	}
	return o.inForce().Admit(ctx, q)
}

// again checks once more whether the client may read what was found in the store: with it the facts have become
// known that another replica had noted.
func (o *Origin) again(ctx context.Context, q *Ask) error {
	if !o.parts.replicas.facts.shared {
		return nil
	}
	if err := o.admitAgain(ctx, q); err != nil {
		return err
	}
	return o.sure(ctx, q)
}

// Veil returns err, or ErrHidden if the client may not know of it.
func (o *Origin) Veil(q *Ask, err error) error {
	return o.inForce().audience.veil(q, err)
}

// Bridge returns the error for a client whose request q began at begin and ended with r
// and err. A go command that requests a module that does not exist needs an absence to
// continue, and an upstream that is not reachable states none. So Bridge remembers the
// absences that upstreams state. If err says that no upstream is reachable, and one of
// those absences is of the same object and recent enough, Bridge returns it as an
// *OldAbsenceError; otherwise it returns err.
func (o *Origin) Bridge(ctx context.Context, q *Ask, begin time.Time, r Result, err error) error {
	if err == nil {
		return nil
	}
	return o.source.bridge(ctx, q, begin, r, err)
}

// Outward returns the path of a module if it may leave this program, and "" if the module is private.
func (o *Origin) Outward(modulePath string) string { return o.gate.Outward(modulePath) }

// Hot returns the object at a path if it is in memory and current, otherwise nil.
func (o *Origin) Hot(path string) *HotObject { return o.shelf.hot.get(path) }

// Served notes that an object of a module was answered from memory.
func (o *Origin) Served(h *HotObject) { o.source.served(h.Req, h.info.Time) }

// Drop removes a stored object whose reading has failed with why. read is the Info of what was read: a
// client may have read it for long, and another one may have found the damage and fetched the object
// again meanwhile.
func (o *Origin) Drop(ctx context.Context, read storage.Info, why error) {
	now, err := o.parts.held.Stat(context.WithoutCancel(ctx), read.Key)
	if err == nil && !now.Time.Equal(read.Time) {
		return
	}
	o.parts.drop(ctx, read.Key, why)
}

// sure finds out whether the client may read the held versions, if that is not known. It
// asks the repository, and the rules may change meanwhile.
func (o *Origin) sure(ctx context.Context, q *Ask) error {
	if !q.unsure {
		return nil
	}
	if err := o.ascertain(ctx, q); err != nil {
		return err
	}
	return o.admitAgain(ctx, q)
}

// ascertain finds the repository of a module while the client waits.
func (o *Origin) ascertain(ctx context.Context, q *Ask) error {
	ctx, cancel := o.parts.patient(ctx)
	defer cancel()
	return o.audience.ascertain(ctx, q)
}

// reachable reports whether an object that is not held can be fetched.
func (o *Origin) reachable(q *Ask) bool { return !q.HeldOnly && o.source.reachable() }

// unheld is the error for an object that is not held and must not, or cannot, be fetched.
func (o *Origin) unheld(q *Ask) error {
	if q.HeldOnly {
		return ErrNotHeld
	}
	return o.source.unheld(q.Req)
}

// Fetched is an object for a client.
type Fetched struct {
	Object   storage.Object // nil: it is still arriving
	Arriving *Arriving
	Result   Result
}

// Object returns an object that never changes: from the store, or by a fill. If follow is
// set the object may still be arriving. The caller closes it.
func (o *Origin) Object(ctx context.Context, q *Ask, follow bool) (Fetched, error) {
	if err := o.sure(ctx, q); err != nil {
		return Fetched{}, err
	}
	object, err := o.shelf.get(ctx, q.Client, q.Req, q.Path)
	if err == nil {
		if err := o.again(ctx, q); err != nil {
			_ = object.Close() // it was only opened
			return Fetched{}, err
		}
		o.source.served(q.Req, object.Info().Time)
		return Fetched{Object: object, Result: Hit}, nil
	}
	if !errors.Is(err, errMiss) {
		return Fetched{}, err
	}
	if !o.reachable(q) {
		return Fetched{}, o.unheld(q)
	}
	if err := o.ascertain(ctx, q); err != nil {
		return Fetched{}, err
	}
	if err := o.absent.find(ctx, q.Path); err != nil {
		return Fetched{Result: Negative}, err
	}
	return o.fetch(ctx, q, follow)
}

// Prefetch says what has become of the prefetch of an object.
type Prefetch uint8

const (
	prefetchHeld    Prefetch = iota // it is stored
	prefetchRead                    // it is stored, and was read ahead
	prefetchRefused                 // it cannot be fetched, or not now
	prefetchBegun
)

// Prefetch reads the object of q ahead if it is stored where that takes long; then size is its size. Otherwise it starts
// a fill of the object of q, which will probably be requested next, if no
// client waits for a place, and prefetches hold fewer than half of the places. No client
// waits for it, so it is the first to yield its place. If it begins, ended is called when
// the fill has ended; ours says that no client had begun that fill. The error is not
// remembered: it occurs again when a client requests the object.
func (o *Origin) Prefetch(ctx context.Context, q *Ask, ended func(ctx context.Context, ours bool, err error)) (became Prefetch, size int64) {
	pause := o.fills.roomFor(q.Req).ahead.pause
	agreed := false
	take := func(size int64) bool {
		agreed = !pause.lasts(time.Now()) && (q.take == nil || q.take(size))
		return agreed
	}
	ctx = memory.WithOwner(ctx, q.Client.Site())
	switch size, held := o.shelf.warm(ctx, q.Req, take); {
	case held && agreed:
		return prefetchRead, size
	case held:
		return prefetchHeld, size
	}
	paused := pause.begins() // first: a pause that begins from now on makes the fill give up
	if o.parts.rooms.predicting.Err() != nil || pause.lasts(time.Now()) || o.source.spared() {
		return prefetchRefused, 0
	}
	if !q.Req.Immutable() || !o.reachable(q) || o.absent.find(ctx, q.Path) != nil || o.ascertain(ctx, q) != nil {
		return prefetchRefused, 0
	}
	f, ours, release := o.fills.ahead(ctx, q)
	if f == nil {
		return prefetchRefused, 0
	}
	if !o.parts.scope.Go(func(ctx context.Context) {
		err := o.follow(f, ours, paused, release)
		_ = o.parts.scope.Guard(q.Path, func() error { // a prediction that fails is no error
			ended(ctx, ours, err)
			return nil
		})
	}) {
		release()
	}
	return prefetchBegun, 0
}

// follow waits for the end of a fill, and returns its error. One that was started for this prefetch is given up
// if it takes too long, if nothing can be stored, and when the Library is closed, unless a client has requested
// its object. release gives another prefetch room as soon as the fill has ended, is given up, or is a client's.
func (o *Origin) follow(f *filling, ours bool, paused <-chan struct{}, release func()) error {
	if !ours {
		<-f.Done()
		return f.Err()
	}
	late := time.NewTimer(o.parts.options.times.Ahead)
	defer late.Stop()
	slow := false
	select {
	case <-f.Done():
	case <-f.Value.ahead.adopted:
	case <-late.C: // the place is for predictions that arrive
		slow = true
	case <-paused: // the space is for what clients have requested
	case <-o.parts.rooms.predicting.Done(): // a stop waits only for what clients have requested
	}
	if !f.Ended() {
		slow = f.Value.giveUp(f.Claim()) && slow
	}
	release()
	<-f.Done()
	if err := f.Err(); err == nil || !slow && !f.Value.ahead.costly {
		return err
	}
	return errUnwanted
}

// fetch waits for the fill of q and returns its object, which may still be arriving if
// follow is set.
func (o *Origin) fetch(ctx context.Context, q *Ask, follow bool) (Fetched, error) {
	wait, cancel := context.WithTimeout(ctx, o.parts.options.times.Answer)
	defer cancel()
	client := q.Client.Key()
	f, joined, err := o.fills.joinFresh(wait, q.Req, client)
	if err != nil {
		return Fetched{}, err
	}
	got := Fetched{Result: Miss}
	if joined {
		got.Result = Coalesced
		f.Cause.Join(ctx)
	}
	if f.Value.waiting.enter() {
		defer f.Value.waiting.leave()
	}
	if follow {
		if got.Arriving, err = o.arriving(wait, f, q); got.Arriving != nil {
			return got, nil
		}
	}
	defer f.Leave(client)
	if err != nil {
		return got, err
	}
	select {
	case <-f.Done():
	case <-wait.Done():
		return got, ErrTimeout
	}
	if err := f.Err(); err != nil {
		if f.Value.ahead != nil {
			got.Result = Miss // of which no client knows yet, see bridge
		}
		o.absent.note(q.Path, err, f.Begun)
		return got, err
	}
	if err := o.admitAgain(ctx, q); err != nil {
		return got, err
	}
	got.Object, err = o.shelf.open(ctx, q.Client, q.Req, q.Path)
	if errors.Is(err, errMiss) {
		got.Object, err = f.Value.passedOn()
	}
	if errors.Is(err, errMiss) {
		err = o.shelf.unreadable(q.Req)
	}
	return got, err
}

// arriving returns the object of a fill as soon as it can be followed and has a first
// byte: until then an error can have a status and a text. It is nil if the fill ends
// first.
func (o *Origin) arriving(ctx context.Context, f *filling, q *Ask) (*Arriving, error) {
	select {
	case <-f.Done():
		return nil, nil
	case <-ctx.Done():
		return nil, ErrTimeout
	case <-f.Value.started:
	}
	if !f.Value.arrived.acquire() {
		return nil, nil
	}
	_, err := f.Value.arrived.wait(ctx, 0, f.Done())
	if err == nil && !f.Ended() {
		return newArriving(f, o.shelf, q), nil
	}
	f.Value.arrived.release()
	if err != nil {
		return nil, ErrTimeout
	}
	return nil, nil
}

// Answer returns an answer that may change: a list, a latest version, the commit of a
// branch. The answer is at most Times.Fresh old, or a little older while it is refreshed
// in the background, or old if no upstream is reachable, or made from stored versions.
func (o *Origin) Answer(ctx context.Context, q *Ask) (*Answer, Result, error) {
	if err := o.sure(ctx, q); err != nil {
		return nil, Unknown, err
	}
	if !o.reachable(q) {
		m, err := o.local(ctx, q)
		if err != nil {
			return nil, Unknown, err
		}
		return m, Hit, nil
	}
	held, err := o.answers.find(ctx, q.Client, q.Req)
	if err == nil && held != nil {
		err = o.again(ctx, q)
	}
	if err != nil {
		return nil, Unknown, err
	}
	if q.unsure { // what is held may be from a repository that the client may not read
		held = nil
	}
	age, times := held.age(), o.parts.options.times
	if age < times.Fresh && !held.before(o.source.pushed(q.Req.Module)) {
		return held, Hit, nil
	}
	if err := o.absent.find(ctx, o.answers.name(q.Req)); err != nil {
		return nil, Negative, err
	}
	if meanwhile := min(o.renewals.meanwhile, times.Stale); meanwhile > 0 && age < meanwhile { // an age can be negative
		if f, _, err := o.renewals.join(ctx, q); err == nil { // otherwise there is no place for it now
			f.Leave(q.Client.Key())
		}
		return held, Stale, nil
	}
	wait := times.Answer
	if age < times.Stale {
		wait = min(wait, times.Patience)
	}
	m, result, err := o.renew(ctx, q, wait)
	if err == nil {
		return m, result, nil
	}
	return o.instead(ctx, q, held, result, err)
}

// Age returns the age of an answer, if it is known and below the limit.
func (o *Origin) Age(m *Answer) (age time.Duration, known bool) {
	age = m.age()
	return age, age < o.parts.options.times.Stale
}

// instead returns the answer that replaces a new one, which failed with err; it returns
// err if no older answer may be served.
func (o *Origin) instead(ctx context.Context, q *Ask, held *Answer, result Result, err error) (*Answer, Result, error) {
	if ctx.Err() != nil {
		return nil, result, ctx.Err()
	}
	err = o.Veil(q, err)
	if final(err) {
		return nil, result, err
	}
	if age := held.age(); age < o.parts.options.times.Stale {
		o.parts.options.log.Warn("serving stale answer: refresh failed", "path", q.Path, "age_s", age.Round(time.Second).Seconds(), "err", err)
		return held, Stale, nil
	}
	if urgent(err) {
		return nil, result, err
	}
	m, local := o.local(ctx, q)
	if local != nil {
		return nil, Unknown, err
	}
	o.parts.options.log.Warn("serving answer from stored versions: refresh failed", "path", q.Path, "err", err)
	return m, Stale, nil
}

// renew returns a new answer. The client waits for it no longer than wait.
func (o *Origin) renew(ctx context.Context, q *Ask, wait time.Duration) (*Answer, Result, error) {
	waiting, cancel := patient(ctx, wait)
	defer cancel()
	if err := o.audience.ascertain(waiting, q); err != nil {
		return nil, Unknown, err
	}
	f, joined, err := o.renewals.join(ctx, q)
	if err != nil {
		return nil, Unknown, err
	}
	defer f.Leave(q.Client.Key())
	if joined {
		f.Cause.Join(ctx)
	}
	m, err := f.Wait(waiting)
	if err != nil {
		return nil, Unknown, err
	}
	if joined {
		return m, Coalesced, o.admitAgain(ctx, q)
	}
	return m, Miss, o.admitAgain(ctx, q)
}

// local makes a list or a latest version from the stored versions, and answers a query
// with its last answer.
func (o *Origin) local(ctx context.Context, q *Ask) (*Answer, error) {
	if q.unsure { // what is held may be from a repository that the client may not read
		return nil, o.unheld(q)
	}
	if q.Req.Kind == request.Info {
		m, err := o.answers.find(ctx, q.Client, q.Req)
		switch {
		case err != nil:
			return nil, err
		case m == nil:
			return nil, o.unheld(q)
		}
		return m, o.again(ctx, q)
	}
	held, err := o.shelf.versions(ctx, q.Req.Module)
	if err == nil {
		err = o.parts.replicas.facts.cover(ctx)
	}
	if err == nil {
		err = o.again(ctx, q)
	}
	if err != nil {
		return nil, err
	}
	if held.all.none() {
		return nil, o.unheld(q)
	}
	if q.Req.Kind == request.List {
		return &Answer{Versions: held.list, Tag: held.tag}, nil
	}
	info, err := o.latest(ctx, q.Req.Module, held.all)
	if errors.Is(err, errMiss) { // it was damaged
		err = o.unheld(q)
	}
	return &Answer{Info: info}, err
}

// latest returns the .info of the latest of the held versions.
func (o *Origin) latest(ctx context.Context, modulePath string, versions Versions) ([]byte, error) {
	latest, err := candidatesOf(versions.All()).latest(modulePath, func(version string) ([]byte, error) {
		data, err := o.shelf.read(ctx, request.Request{Kind: request.Mod, Module: modulePath, Version: version})
		if errors.Is(err, errMiss) {
			err = fs.ErrNotExist // so that another one is the latest
		}
		return data, err
	})
	if err != nil {
		return nil, err
	}
	return o.shelf.read(ctx, request.Request{Kind: request.Info, Module: modulePath, Version: latest})
}
