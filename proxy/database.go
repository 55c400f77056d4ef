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

	"github.com/assay-proxy/assay/proxy/policy"
	"github.com/assay-proxy/assay/sumdb"
)

// database is a checksum database that is served: a Mirror or our own log.
type database interface {
	Name() string
	Latest(ctx context.Context) ([]byte, error)
	Reply(ctx context.Context, r sumdb.Record) ([]byte, error)
	Tile(ctx context.Context, t tlog.Tile) ([]byte, error)
}

// serveSumDB answers for a checksum database, always with what this proxy has
// verified itself.
func (s *Server) serveSumDB(a *answer, req Request) error {
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

func (s *Server) serveDatabase(a *answer, db database, req Request) error {
	switch req.Kind {
	case SumDBSupported:
		return s.serveSupported(a, db)
	case SumDBLatest:
		return s.serveHead(a, db)
	case SumDBLookup:
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
	err := errors.New("the request asks not to fetch one")
	if !a.heldOnly {
		ctx, cancel := s.patient(a.r.Context())
		defer cancel()
		_, err = m.Latest(ctx)
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
		what: "no verified tree head of " + db.Name() + " is held here, and none could be had",
		why:  oneLine(err.Error()),
		next: "try again; if it stays, ask who runs this proxy whether it reaches that database",
		err:  err,
	}
}

// serveHead answers with our newest head. Only the first one is ever waited for.
func (s *Server) serveHead(a *answer, db database) error {
	if m, ok := db.(*sumdb.Mirror); ok && a.heldOnly && m.Size() == 0 {
		return errNotHeld
	}
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	note, err := db.Latest(ctx)
	if err != nil {
		return answerTime(ctx, err)
	}
	return writeSumDB(a, "public, max-age=60", note)
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
func (s *Server) unknownDatabase(req Request) error {
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
func (s *Server) serveLookup(a *answer, db database, req Request) error {
	find := s.findOwn
	if m, ok := db.(*sumdb.Mirror); ok {
		if err := s.refusePrivate(a, req); err != nil {
			return err
		}
		find = func(a *answer, req Request) (sumdb.Record, result, error) { return s.lookup(a, m, req) }
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
func (s *Server) refusePrivate(a *answer, req Request) error {
	settings := s.settings.Load()
	pattern, private := settings.policy.Private(req.Module)
	if !private {
		return nil
	}
	s.log.Warn("private module asked for at the checksum database", "module", req.Module, "pattern", pattern, "client", s.config.Remote(a.r))
	s.noteLeak(a.r, s.identify(a), PublicDatabase, req.Module)
	if err := s.admitByPath(a, req, settings.policy); err != nil {
		return err
	}
	return &failure{
		status: http.StatusForbidden, noStore: true,
		what: req.Module + " is private here (pattern " + pattern + ")",
		why:  "its name is never sent to a checksum database; tell your go command not to ask",
		next: policy.ClientAdvice("GONOSUMDB", pattern, req.Module),
	}
}

// lookup returns the proved record for req, and how it came by it.
func (s *Server) lookup(a *answer, db *sumdb.Mirror, req Request) (sumdb.Record, result, error) {
	record, err := db.Held(a.r.Context(), req.version())
	if !errors.Is(err, fs.ErrNotExist) {
		return record, resultHit, err
	}
	if a.heldOnly {
		return record, resultAbsent, errNotHeld
	}
	key := req.Path()
	if err := s.absent.find(key, false); err != nil {
		a.result = resultNegative
		return record, resultNegative, err
	}
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	if _, err := s.still(req.Module, false); err != nil {
		return record, resultMiss, err
	}
	begin := time.Now()
	record, err = db.Lookup(ctx, req.version())
	s.absent.note(key, err, false, begin)
	return record, resultMiss, answerTime(ctx, err)
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
func (s *Server) serveTile(a *answer, db database, req Request) error {
	if s.own(req.Database) && req.Tile.L < 0 {
		id, settings := s.identify(a), s.settings.Load()
		if !settings.policy.AllowedAll(inGroup(id)) || id.Scope != "" || s.closed(settings) {
			return hidden(a.path) // the names of all private modules are in it
		}
	}
	m, mirrored := db.(*sumdb.Mirror)
	proved := !mirrored || m.Covers(req.Tile) // before, since the head may move meanwhile
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	tile, err := db.Tile(ctx, req.Tile)
	if err != nil {
		return answerTime(ctx, err)
	}
	age := "public, max-age=31536000, immutable"
	switch {
	case !proved:
		age = "no-store" // it may be wrong, and the next one right
	case req.Tile.W < 1<<tileHeight:
		age = "public, max-age=86400" // it is part of a full one some day
	}
	a.Header()["Content-Type"] = contentTypes[SumDBTile]
	if s.own(req.Database) {
		age = "private" + strings.TrimPrefix(age, "public")
	}
	return writeSumDB(a, age, tile)
}

func writeSumDB(a *answer, cacheControl string, body []byte) error {
	h := a.Header()
	if h["Content-Type"] == nil {
		h["Content-Type"] = contentTypes[SumDBLookup]
	}
	h["Cache-Control"] = []string{cacheControl}
	return writeBytes(a, body)
}
