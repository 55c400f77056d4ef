package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/sumdb"
)

// Database is a checksum database that this proxy serves: a mirror or the own log. Its
// answers are always verified.
type Database interface {
	Name() string

	// Head returns the newest signed head. It waits only for the first head of a mirror.
	Head(ctx context.Context, c Client, heldOnly bool) ([]byte, error)

	// HasHead reports whether there is a head, so that Head needs no I/O.
	HasHead() bool

	// Record returns the reply to the lookup of a module of o.
	Record(ctx context.Context, o *Origin, q *Ask) ([]byte, Result, error)

	// Tile returns a tile, and whether the head proves it.
	Tile(ctx context.Context, c Client, req request.Request, heldOnly bool) (tile []byte, proved bool, err error)

	// Keep keeps a proved reply to q in memory, if it is requested again and the database is for all
	// clients. It is dropped when another reply would be given. o is the origin of the module of a
	// record, nil for a tile; caching is the header Cache-Control.
	Keep(o *Origin, q *Ask, reply []byte, caching string)

	// TileCaching says which caches may store a tile, as in the header Cache-Control: public
	// or private.
	TileCaching() string
}

// mirrored serves a mirror.
type mirrored struct {
	mirror
	parts   *parts
	lookups func() *lookups // of the settings in force
	public  func() *Origin  // of the settings in force
}

func (d *mirrored) TileCaching() string { return "public" }

func (d *mirrored) Head(ctx context.Context, c Client, heldOnly bool) ([]byte, error) {
	ctx, cancel := d.parts.patient(ctx)
	defer cancel()
	if d.HasHead() {
		note, err := d.mirror.Latest(ctx)
		return note, answerTime(ctx, said(err))
	}
	if heldOnly {
		return nil, ErrNotHeld
	}
	key := request.Request{Kind: request.SumDBLatest, Database: d.Name()}.Path()
	note, err := d.lookups().file(ctx, c.Key(), key, d.parts.rooms.files, func(ctx context.Context) ([]byte, error) {
		note, err := d.mirror.Latest(ctx)
		return note, said(err)
	})
	return note, answerTime(ctx, err)
}

func (d *mirrored) Record(ctx context.Context, o *Origin, q *Ask) ([]byte, Result, error) {
	record, result, err := o.registry.lookup(ctx, q, d.mirror)
	if err != nil {
		return nil, result, err
	}
	reply, err := d.mirror.Reply(ctx, record)
	if err != nil {
		return nil, Unknown, err
	}
	return reply, result, nil
}

func (d *mirrored) Tile(ctx context.Context, c Client, req request.Request, heldOnly bool) (tile []byte, proved bool, err error) {
	proved = d.Covers(req.Tile) // before the read, since the head may change meanwhile
	ctx, cancel := d.parts.patient(ctx)
	defer cancel()
	tile, err = d.HeldTile(ctx, req.Tile)
	if errors.Is(err, fs.ErrNotExist) {
		tile, err = d.fetchTile(ctx, c, req, heldOnly)
	}
	return tile, proved, answerTime(ctx, err)
}

// Keep keeps the reply in an origin, so that a reload drops it: the module may be private then.
func (d *mirrored) Keep(o *Origin, q *Ask, reply []byte, caching string) {
	if o == nil {
		o = d.public()
	}
	hot := o.shelf.hot
	if len(reply) > HotSize || !hot.asked.again(q.Path) {
		return
	}
	kept := newHotObject(q.Req, reply, sha256.Sum256(reply))
	kept.Caching, kept.current = []string{caching}, d.current(q.Req, reply)
	hot.put(q.Path, kept)
}

// current returns a function that reports whether reply would be given again: a record with the newest
// head, and a tile that our head proves.
func (d *mirrored) current(req request.Request, reply []byte) func() bool {
	if req.Kind == request.SumDBTile {
		return func() bool { return d.Again(req.Tile) }
	}
	return func() bool {
		head, err := d.Latest(context.Background()) // there is one, so this needs no I/O
		return err == nil && bytes.HasSuffix(reply, head)
	}
}

// fetchTile fetches a tile in a place.
func (d *mirrored) fetchTile(ctx context.Context, c Client, req request.Request, heldOnly bool) ([]byte, error) {
	if heldOnly {
		return nil, ErrNotHeld
	}
	all, client := d.lookups(), c.Key()
	if d.HasHead() && !d.Covers(req.Tile) {
		return all.file(ctx, client, req.Path(), d.parts.rooms.beyond, func(ctx context.Context) ([]byte, error) {
			return d.tileBeyond(ctx, all, client, req.Tile)
		})
	}
	return all.file(ctx, client, req.Path(), d.parts.rooms.files, func(ctx context.Context) ([]byte, error) {
		tile, err := d.mirror.Tile(ctx, req.Tile)
		return tile, said(err)
	})
}

// tileBeyond fetches a tile beyond our newest head, unless the client requested many
// tiles that do not exist.
func (d *mirrored) tileBeyond(ctx context.Context, all *lookups, client string, t tlog.Tile) ([]byte, error) {
	if all.manyStrays(client) {
		return nil, ErrStrays
	}
	tile, err := d.mirror.Tile(ctx, t)
	if errors.Is(err, sumdb.ErrBeyond) {
		all.noteStray(client)
	}
	return tile, said(err)
}

// unified serves the own log. Its errors are ErrOwnLog.
type unified struct {
	parts *parts
	rules func() *rules // in force
}

func (d *unified) Name() string        { return d.parts.pinned.log.Name() }
func (d *unified) HasHead() bool       { return true }
func (d *unified) TileCaching() string { return "private" }

func (d *unified) Head(ctx context.Context, _ Client, _ bool) ([]byte, error) {
	ctx, cancel := d.parts.patient(ctx)
	defer cancel()
	note, err := d.parts.pinned.log.Latest(ctx)
	return note, answerTime(ctx, ownLogError(err))
}

func (d *unified) Tile(ctx context.Context, c Client, req request.Request, _ bool) (tile []byte, proved bool, err error) {
	if req.Tile.L < 0 { // it has the names of all private modules
		if err := d.parts.replicas.facts.cover(ctx); err != nil {
			return nil, false, ownLogError(err)
		}
		rules := d.rules()
		if !rules.policy.AllowedAll(c.In) || c.Limited() || rules.closed() {
			return nil, false, ErrHidden
		}
	}
	ctx, cancel := d.parts.patient(ctx)
	defer cancel()
	tile, err = d.parts.pinned.log.Tile(ctx, req.Tile)
	return tile, true, answerTime(ctx, ownLogError(said(err)))
}

// Keep keeps nothing: each request decides whether the client may read the reply.
func (d *unified) Keep(*Origin, *Ask, []byte, string) {}

func (d *unified) Record(ctx context.Context, o *Origin, q *Ask) ([]byte, Result, error) {
	record, result, err := d.find(ctx, o, q)
	if err != nil {
		return nil, result, err
	}
	reply, err := d.parts.pinned.log.Reply(ctx, record)
	if err != nil {
		return nil, Unknown, ownLogError(err)
	}
	return reply, result, nil
}

// find returns the record for q, and how it was obtained. It pins a version without a
// record: a private one by fetching it, a public one by copying the proved record of the
// public database.
func (d *unified) find(ctx context.Context, o *Origin, q *Ask) (sumdb.Record, Result, error) {
	if err := o.Admit(ctx, q); err != nil {
		return sumdb.Record{}, Unknown, err
	}
	waiting, cancel := d.parts.patient(ctx)
	defer cancel()
	if err := o.sure(waiting, q); err != nil {
		return sumdb.Record{}, Unknown, err
	}
	entry, err := d.parts.pinned.find(waiting, q.Req.ModuleVersion())
	if err == nil {
		if err := d.parts.replicas.facts.cover(waiting); err != nil {
			return sumdb.Record{}, Unknown, err
		}
		return entry.Record(), Hit, o.again(waiting, q)
	}
	if !errors.Is(err, errMiss) {
		return sumdb.Record{}, Unknown, answerTime(waiting, err)
	}
	if q.HeldOnly {
		return sumdb.Record{}, Unknown, ErrNotHeld
	}
	if err := o.audience.ascertain(waiting, q); err != nil {
		return sumdb.Record{}, Unknown, err
	}
	if err := o.absent.find(ctx, q.Path); err != nil {
		return sumdb.Record{}, Negative, err
	}
	return d.pin(waiting, o, q)
}

// pin pins a version that is not in the log yet.
func (d *unified) pin(ctx context.Context, o *Origin, q *Ask) (sumdb.Record, Result, error) {
	begin := time.Now()
	record, err := o.registry.pin(ctx, q.Client.Key(), q.Req)
	o.absent.note(q.Path, err, begin)
	if err == nil {
		err = o.admitAgain(ctx, q)
	}
	if err != nil {
		return sumdb.Record{}, Unknown, answerTime(ctx, err)
	}
	return record, Miss, nil
}
