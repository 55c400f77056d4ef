package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/sumdb"
)

// database is a checksum database that is served: a Mirror or our own log.
type database interface {
	Name() string
	Latest(ctx context.Context) ([]byte, error)
	Reply(ctx context.Context, r sumdb.Record) ([]byte, error)
	Tile(ctx context.Context, t tlog.Tile) ([]byte, error)
}

// How much is fetched from checksum databases at the same time for clients that ask them
// through this proxy. What a fill asks for is in the fill's own place.
const (
	lookupPlaces = 32
	filePlaces   = 32 // for tiles and first heads
	beyondPlaces = 4  // for tiles beyond the newest head

	// lookupTime bounds a flight. What is fetched has shorter budgets of its own.
	lookupTime = 150 * time.Second
)

// databasePlaces are the places for what clients ask checksum databases.
type databasePlaces struct{ lookups, files, beyond *places.Places }

func newDatabasePlaces() databasePlaces {
	of := func(n int) *places.Places { return places.New(places.Config{N: n, Patience: silence, Site: siteOf}) }
	return databasePlaces{of(lookupPlaces), of(filePlaces), of(beyondPlaces)}
}

// serveSumDB answers for a checksum database, always with what this proxy has
// verified itself.
func (s *Server) serveSumDB(a *answer, req request.Request) error {
	if s.own(req.Database) {
		return s.serveDatabase(a, ownLog{s.config.Log}, req)
	}
	if m := s.mirror(req.Database); m != nil {
		return s.serveDatabase(a, m, req)
	}
	if log := s.config.Log; log != nil && log.Name() == req.Database {
		return errNotUnified // a 404 would send the client, with the names it asks for, to the host of that name
	}
	return s.unknownDatabase(req)
}

func (s *Server) serveDatabase(a *answer, db database, req request.Request) error {
	switch req.Kind {
	case request.SumDBSupported:
		return s.serveSupported(a, db)
	case request.SumDBLatest:
		return s.serveHead(a, db)
	case request.SumDBLookup:
		return s.serveLookup(a, db, req)
	default:
		return s.serveTile(a, db, req)
	}
}

// serveSupported promises to answer for a database, which the client holds us to for
// the life of its process: it asks nothing else afterwards. With a head that is held this
// needs no I/O, and does not depend on how the upstream is. A mirror that has none, and
// does not get one in time, answers nothing, so it must not promise; a client with another
// proxy behind | goes on to that. It is never a 404, after which the client would send
// the names it asks for to the host of the database.
func (s *Server) serveSupported(a *answer, db database) error {
	m, mirrored := db.(*sumdb.Mirror)
	if !mirrored || m.HasHead() {
		return writeSumDB(a, "public, max-age=3600", nil)
	}
	err := errors.New("the request forbids fetching one")
	if !a.heldOnly {
		ctx, cancel := s.patient(a.r.Context())
		defer cancel()
		_, err = s.firstHead(ctx, a, m)
		err = answerTime(ctx, err)
	}
	switch {
	case err == nil:
		return writeSumDB(a, "public, max-age=3600", nil)
	case errors.Is(err, sumdb.ErrFrozen): // has a text that says more
		return err
	}
	return &failure{
		status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second, noStore: true,
		what: "no verified tree head of " + db.Name() + " is held, and fetching one failed",
		why:  oneLine(err.Error()),
		next: "try again; if it persists, contact this proxy's administrator: the proxy may not reach that database",
		err:  err,
	}
}

// serveHead answers with our newest head. Only the first one is ever waited for.
func (s *Server) serveHead(a *answer, db database) error {
	latest := db.Latest
	if m, ok := db.(*sumdb.Mirror); ok && !m.HasHead() {
		if a.heldOnly {
			return errNotHeld
		}
		latest = func(ctx context.Context) ([]byte, error) { return s.firstHead(ctx, a, m) }
	}
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	note, err := latest(ctx)
	if err != nil {
		return answerTime(ctx, err)
	}
	return writeSumDB(a, "public, max-age=60", note)
}

// firstHead fetches the first head of a mirror.
func (s *Server) firstHead(ctx context.Context, a *answer, m *sumdb.Mirror) ([]byte, error) {
	key := request.Request{Kind: request.SumDBLatest, Database: m.Name()}.Path()
	return s.shareFile(ctx, s.client(a), work[[]byte]{key: key, places: s.databases.files, do: m.Latest})
}

// own reports whether the database called name is our own log, and is served.
func (s *Server) own(name string) bool {
	return s.config.Unified && s.config.Log.Name() == name
}

// mirror returns the mirror with the name, nil if it is not served here.
func (s *Server) mirror(name string) *sumdb.Mirror {
	for _, db := range s.config.Databases {
		if db.Name() == name {
			return db
		}
	}
	return nil
}

// unknownDatabase is the answer for a database that nobody configured. After a
// 404 the client goes on to the database itself, which it chose; where there is
// no upstream it must not.
func (s *Server) unknownDatabase(req request.Request) error {
	f := &failure{status: http.StatusNotFound, what: "not found: the checksum database " + clip(req.Database, 100) + " is not served here",
		why: "this proxy verifies with " + s.databaseNames(), err: fs.ErrNotExist}
	if s.isolated() {
		f.status = http.StatusForbidden
		f.next = "set GOSUMDB to a database that is served here"
	}
	return f
}

func (s *Server) databaseNames() string {
	names := ""
	for i, db := range s.config.Databases {
		if i > 0 {
			names += ", "
		}
		names += db.Name()
	}
	if names == "" {
		return "no checksum database"
	}
	return names
}

// serveLookup answers with a proved record and the newest head.
func (s *Server) serveLookup(a *answer, db database, req request.Request) error {
	find := s.findOwn
	if m, ok := db.(*sumdb.Mirror); ok {
		if err := s.refusePrivate(a, req); err != nil {
			return err
		}
		find = func(a *answer, req request.Request) (sumdb.Record, result, error) { return s.lookup(a, m, req) }
	}
	record, result, err := find(a, req)
	if err != nil {
		return err
	}
	reply, err := db.Reply(a.r.Context(), record)
	if err != nil {
		return err
	}
	a.result = result
	a.Header()["Cache-Status"] = cacheStatus[result]
	if a.private {
		return writeSumDB(a, "private, max-age=60", reply)
	}
	return writeSumDB(a, "public, max-age=60", reply)
}

// refusePrivate refuses to ask a public database for a private name, which is
// recognised before anything else is done with it.
func (s *Server) refusePrivate(a *answer, req request.Request) error {
	settings := s.settings.Load()
	pattern, private := settings.privacy.Private(req.Module)
	if !private {
		return nil
	}
	s.log.Warn("a client looked up a private module in the checksum database", "module", req.Module, "pattern", pattern, "client", s.config.Remote(a.r))
	s.noteLeak(a.r, s.identify(a), PublicDatabase, req.Module)
	if err := s.admitByPath(a, req, settings.privacy); err != nil {
		return err
	}
	return &failure{
		status: http.StatusForbidden, noStore: true,
		what: req.Module + " is private here (pattern " + pattern + ")",
		why:  "its name is never sent to a checksum database; configure your go command not to look it up",
		next: privacy.ClientAdvice("GONOSUMDB", pattern, req.Module),
	}
}

// lookup returns the proved record for req, and how it came by it.
func (s *Server) lookup(a *answer, db *sumdb.Mirror, req request.Request) (sumdb.Record, result, error) {
	record, err := db.Held(a.r.Context(), req.ModuleVersion())
	if !errors.Is(err, fs.ErrNotExist) {
		return record, resultHit, err
	}
	if a.heldOnly {
		return record, resultAbsent, errNotHeld
	}
	if err := s.absent.find(req.Path(), false); errors.Is(err, fs.ErrNotExist) {
		a.result = resultNegative
		return record, resultNegative, err
	}
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	record, err = s.lookupIn(ctx, s.client(a), db, req)
	return record, resultMiss, answerTime(ctx, err)
}

// lookupIn fetches the proved record of req from db, in a place and once for all clients
// that ask.
func (s *Server) lookupIn(ctx context.Context, client string, db *sumdb.Mirror, req request.Request) (sumdb.Record, error) {
	key := request.Request{Kind: request.SumDBLookup, Database: db.Name(), Module: req.Module, Version: req.Version}.Path()
	return s.shareLookup(ctx, client, req, work[sumdb.Record]{key: key, do: func(ctx context.Context) (sumdb.Record, error) {
		if _, err := s.still(req.Module, false); err != nil {
			return sumdb.Record{}, err
		}
		return db.Lookup(ctx, req.ModuleVersion())
	}})
}

// shareLookup shares a lookup, whose key and do w has. What is remembered to be absent,
// or has failed a moment ago, is not asked for again.
func (s *Server) shareLookup(ctx context.Context, client string, req request.Request, w work[sumdb.Record]) (sumdb.Record, error) {
	if err := s.absent.find(w.key, false); err != nil {
		return sumdb.Record{}, err
	}
	w.places, w.limit, w.do = s.databases.lookups, lookupTime, remember(&s.absent, w.key, w.do)
	f, _, err := share(s, &s.lookups, claimOf(client, req), w)
	if err != nil {
		return sumdb.Record{}, err
	}
	defer f.claim.Leave(client)
	return f.wait(ctx)
}

// shareFile shares the work of fetching a tile or a head, whose key, places and do w has.
func (s *Server) shareFile(ctx context.Context, client string, w work[[]byte]) ([]byte, error) {
	if err := s.absent.find(w.key, false); err != nil {
		return nil, err
	}
	w.limit, w.do = lookupTime, remember(&s.absent, w.key, w.do)
	f, _, err := share(s, &s.files, places.For{Client: client}, w)
	if err != nil {
		return nil, err
	}
	defer f.claim.Leave(client)
	return f.wait(ctx)
}

// remember makes do remember for a moment that its object is absent, or that it has
// failed: clients that ask again at once would make it hang or fail again.
func remember[T any](a *absent, key string, do func(context.Context) (T, error)) func(context.Context) (T, error) {
	return func(ctx context.Context) (T, error) {
		begin := time.Now()
		value, err := do(ctx)
		if ctx.Err() == nil { // else it says nothing about the object
			a.note(key, err, false, begin)
			a.noteFailure(key, err, begin)
		}
		return value, err
	}
}

// patient returns a context for what the client of the request with ctx waits
// for.
func (s *Server) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.config.Answer, errAnswer)
}

// answerTime makes err the error of a client that has waited long enough, if
// that is why ctx, from patient, has ended.
func answerTime(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errAnswer) {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	return err
}

// serveTile answers with a tile that hashes up to our head.
func (s *Server) serveTile(a *answer, db database, req request.Request) error {
	if s.own(req.Database) && req.Tile.L < 0 {
		id, settings := s.identify(a), s.settings.Load()
		if !settings.privacy.AllowedAll(inGroup(id)) || id.Scope != "" || s.closed(settings) {
			return hidden(a.path) // the names of all private modules are in it
		}
	}
	m, mirrored := db.(*sumdb.Mirror)
	proved := !mirrored || m.Covers(req.Tile) // before, since the head may move meanwhile
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	find := db.Tile
	if mirrored {
		find = func(ctx context.Context, t tlog.Tile) ([]byte, error) { return s.tile(ctx, a, m, req) }
	}
	tile, err := find(ctx, req.Tile)
	if err != nil {
		return answerTime(ctx, err)
	}
	age := "public, max-age=31536000, immutable"
	switch {
	case !proved:
		age = "no-store" // it may be wrong, and the next one right
	case req.Tile.W < 1<<request.TileHeight:
		age = "public, max-age=86400" // it is part of a full one some day
	}
	a.Header()["Content-Type"] = contentTypes[request.SumDBTile]
	if s.own(req.Database) {
		age = "private" + strings.TrimPrefix(age, "public")
	}
	return writeSumDB(a, age, tile)
}

// tile returns a tile of a mirror: one that is held, or one that is fetched in a place.
func (s *Server) tile(ctx context.Context, a *answer, m *sumdb.Mirror, req request.Request) ([]byte, error) {
	tile, err := m.HeldTile(ctx, req.Tile)
	if !errors.Is(err, fs.ErrNotExist) {
		return tile, err
	}
	if a.heldOnly {
		return nil, errNotHeld
	}
	client := s.client(a)
	w := work[[]byte]{key: req.Path(), places: s.databases.files,
		do: func(ctx context.Context) ([]byte, error) { return m.Tile(ctx, req.Tile) }}
	if m.HasHead() && !m.Covers(req.Tile) {
		w.places = s.databases.beyond
		w.do = func(ctx context.Context) ([]byte, error) { return s.tileBeyond(ctx, client, m, req.Tile) }
	}
	return s.shareFile(ctx, client, w)
}

// tileBeyond fetches a tile beyond our newest head for a client, unless that asks for
// tiles that do not exist.
func (s *Server) tileBeyond(ctx context.Context, client string, m *sumdb.Mirror, t tlog.Tile) ([]byte, error) {
	if s.strays.many(siteOf(client)) {
		return nil, errStrays
	}
	tile, err := m.Tile(ctx, t)
	if errors.Is(err, sumdb.ErrBeyond) {
		s.strays.note(siteOf(client))
	}
	return tile, err
}

func writeSumDB(a *answer, cacheControl string, body []byte) error {
	h := a.Header()
	if h["Content-Type"] == nil {
		h["Content-Type"] = contentTypes[request.SumDBLookup]
	}
	h["Cache-Control"] = []string{cacheControl}
	return writeBytes(a, body)
}
