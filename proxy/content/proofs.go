package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// byDatabase proves public modules with a checksum database.
type byDatabase struct {
	parts   *parts
	gate    *gate.Gate
	lookups *lookups
	name    string // of the database; "": there is none, and nothing is proved
	held    func(ctx context.Context, mod module.Version) (sumdb.Record, error)
	files   []storage.Voucher // of go.mod files and zips
	infos   []storage.Voucher
}

func newByDatabase(p *parts, g *gate.Gate, l *lookups) *byDatabase {
	d := &byDatabase{parts: p, gate: g, lookups: l, infos: []storage.Voucher{storage.Upstream}}
	if len(p.options.mirrors) > 0 {
		db := p.options.mirrors[0]
		d.name, d.held = db.Name(), db.Held
		d.files = append(d.files, storage.ProvedBy(d.name))
	}
	d.files = append(d.files, storage.Upstream)
	for _, v := range p.held.vouchers {
		if v.Database() && !slices.Contains(d.files, v) {
			d.files = append(d.files, v)
		}
	}
	return d
}

func (d *byDatabase) vouchers(kind request.Kind) []storage.Voucher {
	if kind == request.Info {
		return d.infos
	}
	return d.files
}

func (d *byDatabase) check(ctx context.Context, c Client, req request.Request, object storage.Object) error {
	info := object.Info()
	if req.Kind == request.Info || d.name == "" || info.Proof == d.name {
		return nil
	}
	want, err := d.wantedBy(ctx, c, req)
	if err != nil {
		return err
	}
	if info.Hash != want {
		return fmt.Errorf("%w: it does not match the record of %s", errUnfit, d.name)
	}
	d.adopt(ctx, req, info.Key)
	return nil
}

// adopt moves an object that the database has proved below it: it was stored unproved, or
// another one has proved it. What cannot be moved is served all the same, and checked again
// the next time.
func (d *byDatabase) adopt(ctx context.Context, req request.Request, from string) {
	store, err := d.gate.Store(req.Module)
	if err == nil {
		err = store.Move(context.WithoutCancel(ctx), from, d.files[0].Key(req.Path()), d.name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // else another request has moved it
		d.parts.options.log.Debug("object is proved and keeps its key", "key", from, "err", err)
	}
}

// wantedBy is wanted for a client that waits, or, without a client, for a fill.
func (d *byDatabase) wantedBy(ctx context.Context, c Client, req request.Request) (string, error) {
	if c == nil {
		return d.wanted(ctx, req)
	}
	ctx, cancel := d.parts.patient(ctx)
	defer cancel()
	record, err := d.held(ctx, req.ModuleVersion())
	if errors.Is(err, fs.ErrNotExist) {
		record, err = d.shared(ctx, c.Key(), d.name, req)
	}
	want, err := d.hashIn(record, err, req)
	return want, answerTime(ctx, err)
}

// shared fetches the proved record of req from a database, in a place and once for all
// clients that request it.
func (d *byDatabase) shared(ctx context.Context, client, database string, req request.Request) (sumdb.Record, error) {
	key := request.Request{Kind: request.SumDBLookup, Database: database, Module: req.Module, Version: req.Version}.Path()
	return d.lookups.record(ctx, client, req, key, func(ctx context.Context) (sumdb.Record, error) { return d.lookup(ctx, database, req) })
}

// lookup fetches the proved record of req from a database.
func (d *byDatabase) lookup(ctx context.Context, database string, req request.Request) (sumdb.Record, error) {
	ctx, db, err := d.gate.Database(ctx, database, req.Module)
	if err != nil {
		return sumdb.Record{}, err
	}
	record, err := db.Lookup(ctx, req.ModuleVersion())
	return record, said(err)
}

// statement is what the checksum database states about an object. The zero value is that of
// no database.
type statement struct {
	hash  string
	proof *sumdb.Proof // of the record with the hash; it is stored with the object
}

// statement fetches the statement about the object, and stores nothing.
func (d *byDatabase) statement(ctx context.Context, req request.Request) (statement, error) {
	if d.name == "" {
		return statement{}, nil
	}
	ctx, db, err := d.gate.Database(ctx, d.name, req.Module)
	if err != nil {
		return statement{}, err
	}
	proof, err := db.Prove(ctx, req.ModuleVersion())
	if err != nil {
		_, err = d.hashIn(sumdb.Record{}, said(err), req)
		return statement{}, err
	}
	hash, err := d.hashIn(proof.Record, nil, req)
	return statement{hash, proof}, err
}

// wanted returns the hash that the checksum database has for the object, "" if
// there is no database. The record of the database is stored then.
func (d *byDatabase) wanted(ctx context.Context, req request.Request) (string, error) {
	if d.name == "" {
		return "", nil
	}
	record, err := d.lookup(ctx, d.name, req)
	return d.hashIn(record, err, req)
}

// hashIn returns the hash in a record for the object, or the meaning of the lookup's
// error: if the database has no record of a version that an upstream has, this is no
// absence.
func (d *byDatabase) hashIn(record sumdb.Record, err error, req request.Request) (string, error) {
	if notfound.Is(err) {
		return "", fmt.Errorf("%w: %s: %s", ErrUnlisted, d.name, err)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", d.name, err)
	}
	zip, mod, err := record.Hashes(req.ModuleVersion())
	if req.Kind == request.Mod {
		return mod, err
	}
	return zip, err
}

// proofFor returns the proof that the store keeps with an object whose hash in the
// database is want.
func (d *byDatabase) proofFor(want string) string {
	if want == "" {
		return ""
	}
	return d.name
}

// compare returns a *MismatchError if the content does not have the wanted hash.
func (d *byDatabase) compare(req request.Request, source, got, want string) error {
	return d.parts.evidence.compare(req, source, got, want, d.name)
}

func (d *byDatabase) prove(ctx context.Context, v *version) (proved, error) {
	var want string
	for _, file := range []struct {
		kind request.Kind
		hash string
	}{{request.Zip, v.zipHash}, {request.Mod, v.modHash}} {
		of := v.request(file.kind)
		var err error
		if want, err = d.wanted(ctx, of); err != nil {
			return proved{}, err
		}
		if err := d.compare(of, v.origin.URL, file.hash, want); err != nil {
			return proved{}, err
		}
	}
	return proved{files: d.proofFor(want)}, nil // the database does not cover an .info
}

func (d *byDatabase) shows(module.Version) bool { return true }

func (d *byDatabase) shown() int64 { return 0 }

func (d *byDatabase) source(_ context.Context, of module.Version) string {
	return d.parts.infos.source(request.Request{Kind: request.Info, Module: of.Path, Version: of.Version}.Path())
}

func (d *byDatabase) moved(context.Context, string, vcs.Info) {}

// byLog proves private modules with the own log.
type byLog struct {
	pinned *pinned // nil: there is no log
	facts  *facts
	gate   *gate.Gate
	log    *slog.Logger
	all    []storage.Voucher
}

func newByLog(pinned *pinned, facts *facts, g *gate.Gate, log *slog.Logger) *byLog {
	l := &byLog{pinned: pinned, facts: facts, gate: g, log: log}
	if pinned != nil {
		l.all = []storage.Voucher{storage.PinnedIn(pinned.log.Name())}
	}
	return l
}

func (l *byLog) vouchers(request.Kind) []storage.Voucher { return l.all }

// check also makes sure that the facts are known which protect the object. They may say that the client must not
// read it, see Origin.again.
func (l *byLog) check(ctx context.Context, _ Client, req request.Request, object storage.Object) error {
	if err := l.pinned.check(ctx, req, object); err != nil {
		return err
	}
	return l.facts.cover(ctx)
}

// prove returns a proof that writes the hashes into the own log, or compares them with those in it.
func (l *byLog) prove(_ context.Context, v *version) (proved, error) {
	name := l.pinned.log.Name()
	entry := pinlog.Entry{Module: v.Version, Zip: v.zipHash, Mod: v.modHash, Origin: v.origin.String()}
	return proved{files: name, info: name, pin: func(ctx context.Context, files pinlog.Dependents) (bool, error) {
		log, err := l.gate.Log(v.Path)
		if err != nil {
			return false, err
		}
		_, stored, err := l.pinned.pin(ctx, log, entry, files)
		return stored, err
	}}, nil
}

// shows reports whether the own log shows the entry of a version. The files of a version are stored
// after its entry is written and before that is signed.
func (l *byLog) shows(of module.Version) bool { return l.pinned != nil && l.pinned.log.Shows(of) }

func (l *byLog) shown() int64 {
	if l.pinned == nil {
		return 0
	}
	return l.pinned.log.Size() // what an open log shows changes with a signed head alone
}

func (l *byLog) source(ctx context.Context, of module.Version) string {
	if l.pinned == nil {
		return ""
	}
	entry, err := l.pinned.find(ctx, of)
	if err != nil {
		return "" // serving the version logs the reason
	}
	return entry.Origin
}

func (l *byLog) moved(ctx context.Context, modulePath string, now vcs.Info) {
	l.pinned.moved(ctx, modulePath, now, l.log)
}
