package proxy

import (
	"cmp"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/sumdb"
)

// databases are the checksum databases that this proxy serves.
type databases struct{ library *content.Library }

// serve answers for a checksum database, only with data that this proxy has verified
// itself.
func (d databases) serve(resp *response) error {
	req := resp.ask.Req
	db := d.library.Database(req.Database)
	switch {
	case db == nil && d.library.OwnName() == req.Database:
		return errNotUnified // a 404 would send the client, with the names it looks up, to the host of that name
	case db == nil:
		return d.unknownDatabase(req)
	case req.Kind == request.SumDBSupported:
		return d.serveSupported(resp, db)
	case req.Kind == request.SumDBLatest:
		return d.serveHead(resp, db)
	case req.Kind == request.SumDBLookup:
		return d.serveLookup(resp, db)
	}
	return d.serveTile(resp, db)
}

// serveSupported promises to answer for a database; the client relies on it for the life
// of its process. With a stored head this needs no I/O, and does not depend on the
// upstream. A mirror that has no head, and gets none in time, can answer nothing, so it
// must not promise; a client with another proxy behind | then uses that. The response is
// never a 404: after a 404 the client would send the names it looks up to the host of the
// database.
func (d databases) serveSupported(resp *response, db content.Database) error {
	if db.HasHead() {
		return resp.writeSumDB("public, max-age=3600", nil)
	}
	_, err := db.Head(resp.r.Context(), &resp.client, resp.ask.HeldOnly)
	switch {
	case err == nil:
		return resp.writeSumDB("public, max-age=3600", nil)
	case errors.Is(err, sumdb.ErrFrozen): // its text says more
		return err
	case errors.Is(err, content.ErrNotHeld):
		err = errors.New("the request forbids fetching one")
	}
	return &failure{
		status: http.StatusServiceUnavailable, retryAfter: 5 * time.Second, noStore: true,
		what: "no verified tree head of " + db.Name() + " is held, and fetching one failed",
		why:  text.Line(err.Error()),
		next: "try again; if it persists, contact this proxy's administrator: the proxy may not reach that database",
		err:  err,
	}
}

// serveHead answers with our newest head.
func (d databases) serveHead(resp *response, db content.Database) error {
	note, err := db.Head(resp.r.Context(), &resp.client, resp.ask.HeldOnly)
	if err != nil {
		return err
	}
	return resp.writeSumDB("public, max-age=60", note)
}

// unknownDatabase is the response for a database that is not configured. After a 404 the
// client contacts the database itself, which it chose; without an upstream it must not.
func (d databases) unknownDatabase(req request.Request) error {
	f := &failure{status: http.StatusNotFound, what: "not found: the checksum database " + text.Clip(req.Database, 100) + " is not served here",
		why: "this proxy verifies with " + d.names(), err: fs.ErrNotExist}
	if d.library.Offline() {
		f.status = http.StatusForbidden
		f.next = "set GOSUMDB to a database that is served here"
	}
	return f
}

func (d databases) names() string {
	names := strings.Join(d.library.Databases(), ", ")
	return cmp.Or(names, "no checksum database")
}

// serveLookup answers with a proved record and the newest head.
func (d databases) serveLookup(resp *response, db content.Database) error {
	resp.origin = d.library.Origin(resp.ask.Req.Module)
	reply, how, err := db.Record(resp.r.Context(), resp.origin, &resp.ask)
	resp.result = result(how)
	if err != nil {
		return err
	}
	db.Keep(resp.origin, &resp.ask, reply, resp.origin.Caching.Record)
	resp.Header()["Cache-Status"] = cacheStatus[resp.result]
	return resp.writeSumDB(resp.origin.Caching.Record, reply)
}

// serveTile answers with a tile that hashes up to our head.
func (d databases) serveTile(resp *response, db content.Database) error {
	req := resp.ask.Req
	tile, proved, err := db.Tile(resp.r.Context(), &resp.client, req, resp.ask.HeldOnly)
	if err != nil {
		return err
	}
	age := db.TileCaching() + ", max-age=31536000, immutable"
	switch {
	case !proved:
		age = "no-store" // it may be wrong; the next one may be right
	case req.Tile.W < 1<<sumdb.TileHeight:
		age = db.TileCaching() + ", max-age=86400" // it will become part of a full tile
	}
	if proved {
		db.Keep(nil, &resp.ask, tile, age)
	}
	resp.Header()["Content-Type"] = contentTypes[request.SumDBTile]
	return resp.writeSumDB(age, tile)
}
