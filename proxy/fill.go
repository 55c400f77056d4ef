package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	xmodzip "golang.org/x/mod/zip"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/defect"
	"github.com/assay-proxy/assay/internal/places"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

const (
	// The limits of the go command (cmd/go/internal/modfetch/codehost,
	// x/mod/zip). It has none for info; one is a hundred times shorter.
	zipLimit  = xmodzip.MaxZipFile
	modLimit  = xmodzip.MaxGoMod
	infoLimit = 1 << 20

	// holdBack is how much of a zip waits for its proof: the end, where the
	// directory of a zip stands, so that what a client has is of no use
	// without it. A zip that is not longer is not streamed at all, so that
	// its errors have a status and a text.
	holdBack = 256 << 10

	// A fill that takes longer than this is given up. The longest honest one
	// is a zip of 500 MiB at half a megabyte per second.
	smallFillTime = 3 * time.Minute
	zipFillTime   = 20 * time.Minute

	// silence is how long a fill without a byte keeps its place while others wait: the
	// first answer of a mirror for a version that it has not got takes seconds.
	silence = 10 * time.Second
)

// fill is one object being fetched, proved and stored. A client that wants the object
// meanwhile waits for the same fill.
type fill struct {
	fillKey
	req   request.Request
	begun time.Time
	claim *places.Claim

	// started is closed when the fields below it are set and the object can
	// be streamed; it may never be. done is closed when the fill has ended,
	// after err was set.
	started chan struct{}
	done    chan struct{}

	size  int64
	hash  string // that the content must have
	spool *spool // of a zip

	err    error
	stored bool // what is in the spool is what is stored, byte for byte
}

// fills are the fills under way.
type fills struct {
	small, zips, private *places.Places

	mu     sync.Mutex
	active map[fillKey]*fill
}

// fillKey tells fills apart. When a module becomes private, or public, what runs for
// it is nothing to join any more; nor, after any other reload, what may still wait for
// an upstream that is no longer to be asked.
type fillKey struct {
	key      string
	private  bool
	settings uint64 // the number of those when it was begun
}

func newFills(small, zips int) fills {
	return fills{
		small:   places.New(places.Config{N: small, Patience: silence, Site: siteOf}),
		zips:    places.New(places.Config{N: zips, Patience: silence, Site: siteOf}),
		private: places.New(places.Config{N: privatePlaces, Site: siteOf}), // a clone may take minutes, and tells no progress
		active:  map[fillKey]*fill{},
	}
}

// placesFor returns the places of which a fill of req takes one.
func (f *fills) placesFor(req request.Request, private bool) *places.Places {
	switch {
	case private:
		return f.private
	case req.Kind == request.Zip:
		return f.zips
	}
	return f.small
}

// join returns the fill for req, which it starts if there is none, and reports
// whether there was one. The client counts as waiting until f.claim.Leave. The error is
// errBusy or errClientBusy.
func (s *Server) join(req request.Request, private bool, client string) (f *fill, joined bool, err error) {
	key := fillKey{req.Path(), private, s.settings.Load().number}
	s.fills.mu.Lock()
	defer s.fills.mu.Unlock()
	if f, ok := s.fills.active[key]; ok && f.claim.Join(client) {
		return f, true, nil
	}
	claim, err := s.fills.placesFor(req, private).Claim(claimOf(client, req))
	if err != nil {
		return nil, false, busy(err)
	}
	f = &fill{fillKey: key, req: req, claim: claim, begun: time.Now(), started: make(chan struct{}), done: make(chan struct{})}
	s.fills.active[key] = f
	s.running.Add(1)
	go s.run(f)
	return f, false, nil
}

// joinAnew is join for a client that waits at most until ctx ends. If a private fill that
// was joined ends "not found" it fills once more: the version may have been pushed
// since that fill looked, and the client come because of it.
func (s *Server) joinAnew(ctx context.Context, req request.Request, private bool, client string) (f *fill, joined bool, err error) {
	f, joined, err = s.join(req, private, client)
	if !private || !joined {
		return f, joined, err
	}
	select { // it is not streamed, nothing is missed
	case <-f.done:
	case <-ctx.Done():
		return f, joined, nil
	}
	if errors.Is(f.err, fs.ErrNotExist) {
		f.claim.Leave(client)
		return s.join(req, private, client)
	}
	return f, joined, nil
}

// run does the whole of a fill, whoever is still waiting for it.
func (s *Server) run(f *fill) {
	defer s.running.Done()
	limit := smallFillTime
	if f.private || f.req.Kind == request.Zip {
		limit = zipFillTime
	}
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()

	f.err = s.guard(f.key, func() error {
		return s.inPlace(ctx, f.claim, func(ctx context.Context) error { return s.fillInPlace(ctx, f) })
	})
	s.suspects.note(f.key, f.err)

	s.fills.mu.Lock()
	if s.fills.active[f.fillKey] == f { // else another one began when this one had to yield
		delete(s.fills.active, f.fillKey)
	}
	s.fills.mu.Unlock()
	close(f.done)
	if f.spool != nil {
		f.spool.release()
	}
}

// ended reports whether the fill is done.
func (f *fill) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// fillInPlace fills, unless that has been done already.
func (s *Server) fillInPlace(ctx context.Context, f *fill) error {
	s.metrics.fillsRunning.Inc()
	defer s.metrics.fillsRunning.Dec()

	// Another fill may have ended between the client's look into the store
	// and now.
	if object, err := s.open(ctx, nil, f.req, f.key, f.private); err == nil {
		return object.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	begin := time.Now()
	err := s.fillFrom(ctx, f)
	s.metrics.observeFill(f.req.Kind, err, time.Since(begin))
	return err
}

// fillFrom fills from where the object is to come from.
func (s *Server) fillFrom(ctx context.Context, f *fill) error {
	if f.private {
		return s.fillVersion(ctx, f, vcs.Private)
	}
	fill := s.fillZip
	switch f.req.Kind {
	case request.Info:
		fill = s.fillInfo
	case request.Mod:
		fill = s.fillMod
	}
	err := fill(ctx, f)
	if errors.Is(err, fetch.ErrDirect) {
		return s.fillVersion(ctx, f, vcs.Public)
	}
	return err
}

// fillInfo fetches an .info.
func (s *Server) fillInfo(ctx context.Context, f *fill) error {
	held := s.config.Memory.Fetches.HoldFor(ctx)
	defer held.Free()
	data, source, err := s.fetchInfo(held.Context(ctx), f.req, "")
	if err != nil {
		return err
	}
	s.infos.note(f.key, source, time.Time{})
	return s.create(ctx, f.req, false, infoOf(f.req, data), bytes.NewReader(data))
}

// parseInfo returns the version that an .info describes.
func parseInfo(data []byte) (version string, err error) {
	var info struct {
		Version string
		Time    time.Time
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return "", fmt.Errorf("not a JSON info: %w", err)
	}
	if module.CanonicalVersion(info.Version) != info.Version || info.Version == "" {
		return "", fmt.Errorf("it has no canonical version")
	}
	return info.Version, nil
}

// fillMod fetches a go.mod, and its record at the same time.
func (s *Server) fillMod(ctx context.Context, f *fill) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	settings, err := s.still(f.req.Module, false)
	if err != nil {
		return err
	}
	record := s.wantedSoon(ctx, f.req)
	held := s.config.Memory.Fetches.HoldFor(ctx) // before anything else is: a fill that waits for memory has none
	defer held.Free()
	data, source, err := settings.upstream.ReadAll(held.Context(ctx), f.key, modLimit)
	if err != nil {
		return err
	}
	want, err := record(ctx)
	if err != nil {
		return err
	}
	got, err := hashMod(bytes.NewReader(data))
	if err != nil {
		return err
	}
	if err := s.compare(f.req, source, got, want); err != nil {
		return err
	}
	if want == "" && modfile.ModulePath(data) == "" {
		return fmt.Errorf("%w: %s: the go.mod has no module line", errGarbage, source)
	}
	info := storage.Info{Size: int64(len(data)), Hash: got, Proof: s.proofName(want)}
	if err := s.create(ctx, f.req, false, info, bytes.NewReader(data)); err != nil {
		return err
	}
	s.recheckProved(ctx, f.req, source)
	return nil
}

// wantedSoon begins to look for the hash that the object must have, and returns
// what waits for it, at most until a context ends. What the upstream says of the object
// comes first: if it has none, it does not matter that the database does not know it
// either.
func (s *Server) wantedSoon(ctx context.Context, req request.Request) func(context.Context) (string, error) {
	var (
		want string
		err  error
		done = make(chan struct{})
	)
	s.running.Go(func() { // the fill is counted there too, so this is in time
		defer close(done)
		err = s.guard(req.Path(), func() (err error) {
			want, err = s.wanted(ctx, req)
			return err
		})
	})
	return func(ctx context.Context) (string, error) {
		select {
		case <-done:
			return want, err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// fillZip fetches a zip into a spool, and its record at the same time. As soon
// as its size and the hash it must have are known, clients can follow the spool.
func (s *Server) fillZip(ctx context.Context, f *fill) error {
	settings, err := s.still(f.req.Module, false)
	if err != nil {
		return err
	}
	spool, err := newSpool(s.config.Spool)
	if err != nil {
		return err
	}
	f.spool = spool
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	record := s.wantedSoon(ctx, f.req)
	object, err := settings.upstream.Fetch(ctx, f.key, zipLimit)
	if err != nil {
		return err
	}
	defer object.Body.Close()
	f.size = object.Size

	var want string
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer context.AfterFunc(gctx, func() { object.Body.Close() })() // no record, no use for a zip
		return defect.Catch(func() error {
			_, err := io.CopyBuffer(newArrival(f), struct{ io.Reader }{object.Body}, make([]byte, 128<<10))
			f.claim.Rest() // what is missing now is the record
			return err
		})
	})
	g.Go(func() (err error) {
		if want, err = record(gctx); err != nil {
			return err
		}
		if f.hash = want; want != "" && f.size > holdBack && !s.suspects.has(f.key) {
			close(f.started)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	f.claim.Firm()
	return s.proveZip(ctx, f, object.Source, want)
}

// notZip stands for the hash of what has none.
func notZip(err error) string { return oneLine(err.Error()) }

// proveZip checks the zip in the spool of f, whole, and stores it.
func (s *Server) proveZip(ctx context.Context, f *fill, source, want string) error {
	got, err := s.hashZip(ctx, f.spool.file)
	switch {
	case errors.Is(err, modzip.ErrFormat) && want != "":
		// With a record at hand a zip that cannot be read is just not what
		// the record says.
		got = notZip(err)
	case errors.Is(err, modzip.ErrFormat):
		return fmt.Errorf("%w: %s: %w", errGarbage, source, err)
	case err != nil:
		return err
	}
	if err := s.compare(f.req, source, got, want); err != nil {
		return err
	}
	if want == "" {
		if err := s.checkZip(ctx, f.req.ModuleVersion(), f.spool.file); err != nil {
			return fmt.Errorf("%w: %s: %w", errGarbage, source, err)
		}
	}
	size, _ := f.spool.readable()
	if err := checkShape(f.spool.file); err != nil {
		s.log.Error("zip refused: it has bytes that are not covered by its hash", "module", f.req.Module, "version", f.req.Version, "source", source, "err", err)
		return fmt.Errorf("%s: %w", source, err)
	}
	info := storage.Info{Size: size, Hash: got, Proof: s.proofName(want)}
	if f.stored, err = s.put(ctx, f.req, false, info, io.NewSectionReader(f.spool.file, 0, size)); err != nil {
		return err
	}
	s.recheckProved(ctx, f.req, source)
	return nil
}

// wanted returns the hash that the checksum database has for the object, "" if
// there is no database.
func (s *Server) wanted(ctx context.Context, req request.Request) (string, error) {
	db := s.database()
	if db == nil {
		return "", nil
	}
	if _, err := s.still(req.Module, false); err != nil {
		return "", err
	}
	record, err := db.Lookup(ctx, req.ModuleVersion())
	return s.hashIn(record, err, req)
}

// hashIn returns the hash that a record has for the object, or what the error of its
// lookup means.
func (s *Server) hashIn(record sumdb.Record, err error, req request.Request) (string, error) {
	db := s.database()
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %s: %s", errUnlisted, db.Name(), err) // an absence there is none here
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", db.Name(), err)
	}
	return recordHash(record, req)
}

func recordHash(record sumdb.Record, req request.Request) (string, error) {
	zip, mod, err := record.Hashes(req.ModuleVersion())
	if req.Kind == request.Mod {
		return mod, err
	}
	return zip, err
}

// proofName returns what goes into the store as the proof of an object for
// which the database wanted the hash want.
func (s *Server) proofName(want string) string {
	if want == "" {
		return ""
	}
	return s.database().Name()
}

// compare returns a mismatchError if the content is not what it must be, and
// keeps the evidence.
func (s *Server) compare(req request.Request, source, got, want string) error {
	if want == "" || got == want {
		return nil
	}
	file := strings.TrimPrefix(req.Kind.String(), ".")
	if req.Kind == request.Mod {
		file = "go.mod"
	}
	mismatch := &mismatchError{
		Module: req.Module, Version: req.Version, File: file,
		Got: got, Want: want, Source: source, Database: s.database().Name(),
	}
	s.metrics.mismatches.Inc()
	evidence, err := keepMismatch(s.config.Evidence, mismatch, time.Now())
	s.log.Error("checksum mismatch", "module", req.Module, "version", req.Version, "file", file,
		"source", source, "got", got, "want", want, "evidence", evidence)
	if err != nil {
		s.log.Error("evidence of a checksum mismatch not saved", "err", err)
	}
	return mismatch
}

// create stores what was proved. If somebody else was faster, theirs is as good.
// What is there from before, when a private module was public or the other way
// round, goes.
func (s *Server) create(ctx context.Context, req request.Request, private bool, info storage.Info, data io.ReadSeeker) error {
	_, err := s.put(ctx, req, private, info, data)
	return err
}

// put is create, and reports whether it is data that is stored and not what another fill
// has stored before.
func (s *Server) put(ctx context.Context, req request.Request, private bool, info storage.Info, data io.ReadSeeker) (ours bool, err error) {
	if _, err := s.still(req.Module, private); err != nil {
		return false, err
	}
	info.Key = storage.Key(req.Path())
	err = s.store.Create(ctx, info, data)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	held, err := s.store.Stat(ctx, info.Key)
	if err == nil && held.Proof == info.Proof {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrDamaged) {
		return false, err
	}
	if _, err := data.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	err = s.store.Replace(ctx, info, data)
	return err == nil, err
}
