package content

import (
	"context"
	"time"

	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/internal/spans"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/sumdb"
)

// lookupTime limits a lookup in a checksum database. Its fetches have shorter budgets of
// their own.
const lookupTime = 150 * time.Second

// lookups are the requests of clients to checksum databases, once for all clients with
// the same request.
type lookups struct {
	rooms   rooms
	site    func(client string) string
	absent  *absent
	records *flight.Group[sumdb.Record]
	files   *flight.Group[[]byte] // tiles and heads
	strays  memo.Map[string, stray]
}

func newLookups(p *parts, a *absent) *lookups {
	l := &lookups{rooms: p.rooms, site: p.options.site, absent: a, records: flight.NewGroup[sumdb.Record](p.scope), files: flight.NewGroup[[]byte](p.scope)}
	l.strays.Limit = maxStrays
	return l
}

// record shares the work of finding a record. It does not ask again for a record that is
// remembered as absent, or whose lookup has just failed.
func (l *lookups) record(ctx context.Context, client string, req request.Request, key string, do func(context.Context) (sumdb.Record, error)) (sumdb.Record, error) {
	return shareLookup(ctx, l.records, l.absent, claimOf(client, req), flight.Work[sumdb.Record]{Key: key, Places: l.rooms.lookups}, do)
}

// file shares the work of fetching a tile or a head.
func (l *lookups) file(ctx context.Context, client, key string, of *places.Places, do func(context.Context) ([]byte, error)) ([]byte, error) {
	return shareLookup(ctx, l.files, l.absent, places.For{Client: client}, flight.Work[[]byte]{Key: key, Places: of}, do)
}

// shareLookup does w, whose work is do. It remembers an absence or a failure for a
// moment: clients that retry at once would make the lookup hang or fail again.
func shareLookup[T any](ctx context.Context, all *flight.Group[T], a *absent, who places.For, w flight.Work[T], do func(context.Context) (T, error)) (value T, err error) {
	if err := a.find(ctx, w.Key); err != nil {
		return value, err
	}
	w.Limit, w.Cause = lookupTime, spans.CauseOf(ctx)
	w.Do = func(ctx context.Context, f *flight.Flight[T]) (err error) {
		begin := time.Now()
		f.Value, err = do(ctx)
		if ctx.Err() == nil { // otherwise err says nothing about the object
			a.note(w.Key, err, begin)
			a.noteFailure(w.Key, err, begin)
		}
		return err
	}
	f, joined, err := all.Join(who, w)
	if err != nil {
		return value, err
	}
	if joined {
		f.Cause.Join(ctx)
	}
	defer f.Leave(who.Client)
	return f.Wait(ctx)
}

// stray counts the tiles beyond the end of a checksum database that a client requested
// and that the upstream did not have. A client with a signed head requests tiles that
// exist; an invented tile would cause a request upstream each time.
type stray struct {
	tiles int
	since time.Time
}

const (
	// strayTiles is how many such tiles a client may request within StrayTime.
	strayTiles = 16
	StrayTime  = time.Minute

	// maxStrays limits the memory, at some hundred bytes each.
	maxStrays = 10000
)

// manyStrays reports whether a client has requested too many.
func (l *lookups) manyStrays(client string) bool {
	s, _ := l.strays.Get(l.site(client))
	return s.tiles >= strayTiles && time.Since(s.since) < StrayTime
}

// noteStray counts one such tile.
func (l *lookups) noteStray(client string) {
	l.strays.Change(l.site(client), func(s stray) (stray, bool) {
		if time.Since(s.since) >= StrayTime {
			s = stray{since: time.Now()}
		}
		s.tiles++
		return s, true
	})
}
