package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// registry answers lookups of clients in checksum databases for the versions of an
// origin.
type registry interface {
	// lookup returns the proved record of a version in a mirror.
	lookup(ctx context.Context, q *Ask, m mirror) (sumdb.Record, Result, error)

	// pin returns the new record of a version that has none in the own log.
	pin(ctx context.Context, client string, req request.Request) (sumdb.Record, error)
}

// publicRegistry is for public modules.
type publicRegistry struct {
	parts  *parts
	gate   *gate.Gate
	absent *absent
	proof  *byDatabase
	first  mirror // modules are verified with it; nil: there is none
}

func (r *publicRegistry) lookup(ctx context.Context, q *Ask, m mirror) (sumdb.Record, Result, error) {
	record, err := m.Held(ctx, q.Req.ModuleVersion())
	if err == nil {
		return record, Hit, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return record, Unknown, err
	}
	if q.HeldOnly {
		return record, Unknown, ErrNotHeld
	}
	if err := r.absent.find(ctx, q.Path); IsAbsence(err) {
		return record, Negative, err
	}
	ctx, cancel := r.parts.patient(ctx)
	defer cancel()
	record, err = r.proof.shared(ctx, q.Client.Key(), m.Name(), q.Req)
	if err != nil {
		return record, Unknown, answerTime(ctx, err)
	}
	return record, Miss, nil
}

// pin copies the proved record of a public version into the own log. If the record must
// be fetched first, this takes a place for lookups, once for all clients that request it.
func (r *publicRegistry) pin(ctx context.Context, client string, req request.Request) (sumdb.Record, error) {
	if _, err := r.first.Held(ctx, req.ModuleVersion()); err == nil {
		return r.copy(ctx, req)
	}
	return r.proof.lookups.record(ctx, client, req, req.Path(), func(ctx context.Context) (sumdb.Record, error) { return r.copy(ctx, req) })
}

// copy copies a record into the own log, with its source.
func (r *publicRegistry) copy(ctx context.Context, req request.Request) (sumdb.Record, error) {
	record, err := r.proof.lookup(ctx, r.first.Name(), req)
	if err != nil {
		return sumdb.Record{}, err
	}
	zip, mod, err := record.Hashes(req.ModuleVersion())
	if err != nil {
		return sumdb.Record{}, err
	}
	reply, err := r.first.Reply(ctx, record)
	if err != nil {
		return sumdb.Record{}, err
	}
	_, _, head, err := tlog.ParseRecord(reply)
	if err != nil {
		return sumdb.Record{}, err
	}
	log, err := r.gate.Log(req.Module)
	if err != nil {
		return sumdb.Record{}, err
	}
	entry, _, err := r.parts.pinned.pin(ctx, log, pinlog.Entry{
		Module: req.ModuleVersion(), Zip: zip, Mod: mod,
		Public: &pinlog.PublicProof{Name: r.first.Name(), ID: record.ID, Head: head},
	}, pinlog.Dependents{})
	if err != nil {
		return sumdb.Record{}, err
	}
	ours := entry.Record()
	if string(ours.Text) != string(record.Text) {
		return sumdb.Record{}, fmt.Errorf("%w: the record of %s in %s does not consist of the expected two lines", sumdb.ErrInvalid, req.ModuleVersion(), r.first.Name())
	}
	return ours, nil
}

// privateRegistry is for private modules.
type privateRegistry struct {
	parts    *parts
	audience *members
	fills    *fills
}

// lookup refuses to send a private name to a database.
func (r *privateRegistry) lookup(_ context.Context, q *Ask, _ mirror) (sumdb.Record, Result, error) {
	pattern, _ := r.audience.rules.policy.Private(q.Req.Module)
	return sumdb.Record{}, Unknown, &LeakError{Module: q.Req.Module, Pattern: pattern, Err: r.audience.admitByPath(q)}
}

// pin fetches a version, which pins it.
func (r *privateRegistry) pin(ctx context.Context, client string, req request.Request) (sumdb.Record, error) {
	f, _, err := r.fills.joinFresh(ctx, request.Request{Kind: request.Zip, Module: req.Module, Version: req.Version}, client)
	if err != nil {
		return sumdb.Record{}, err
	}
	defer f.Leave(client)
	if _, err := f.Wait(ctx); err != nil {
		return sumdb.Record{}, err
	}
	entry, err := r.parts.pinned.find(ctx, req.ModuleVersion())
	return entry.Record(), err
}
