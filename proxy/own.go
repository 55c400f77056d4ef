package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// ownLog is our own log as a database that is served. Its errors say that it is ours.
type ownLog struct{ *pinlog.Log }

func (l ownLog) Latest(ctx context.Context) ([]byte, error) {
	note, err := l.Log.Latest(ctx)
	return note, ownLogError(err)
}

func (l ownLog) Reply(ctx context.Context, r sumdb.Record) ([]byte, error) {
	body, err := l.Log.Reply(ctx, r)
	return body, ownLogError(err)
}

func (l ownLog) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	tile, err := l.Log.Tile(ctx, t)
	return tile, ownLogError(err)
}

// ownFrozen is an ErrFrozen of our own log. Its text is short, because each request
// that is refused for it has a line in the log; why it is so was logged once, when the
// log was opened or frozen, with all that an operator has to do.
type ownFrozen struct{ err error }

func (e *ownFrozen) Error() string {
	return errOwnLog.Error() + ": it signs nothing new; an earlier log line and assay log check give the reason"
}

func (e *ownFrozen) Unwrap() []error { return []error{errOwnLog, e.err} }

// ownLogError makes an ErrFrozen or ErrBeyond one of our own log.
func ownLogError(err error) error {
	if errors.Is(err, sumdb.ErrFrozen) {
		return &ownFrozen{err}
	}
	if errors.Is(err, sumdb.ErrBeyond) {
		return fmt.Errorf("%w: %w", errOwnLog, err)
	}
	return err
}

// findOwn returns the record of our own log for req, and how it came by it. A
// version that is not there yet is pinned: a private one by fetching it, a public
// one by copying what the public database has proved.
func (s *Server) findOwn(a *answer, req request.Request) (sumdb.Record, result, error) {
	if err := s.admit(a, req); err != nil {
		return sumdb.Record{}, resultAbsent, err
	}
	ctx, cancel := s.patient(a.r.Context())
	defer cancel()
	if a.unsure {
		if err := s.ascertain(ctx, a, req); err != nil {
			return sumdb.Record{}, resultAbsent, err
		}
	}
	entry, err := s.config.Log.Find(req.ModuleVersion())
	if !errors.Is(err, fs.ErrNotExist) {
		return entry.Record(), resultHit, err
	}
	if a.heldOnly {
		return sumdb.Record{}, resultAbsent, errNotHeld
	}
	if err := s.ascertain(ctx, a, req); err != nil {
		return sumdb.Record{}, resultAbsent, err
	}
	if err := s.absent.find(a.path, a.private); err != nil {
		a.result = resultNegative
		return sumdb.Record{}, resultNegative, err
	}
	pin := s.sharePublic
	if a.private {
		pin = s.pinPrivate
	}
	begin := time.Now()
	record, err := pin(ctx, s.client(a), req)
	s.absent.note(a.path, err, a.private, begin)
	if err == nil {
		err = s.admit(a, req) // where it is, is known only now
	}
	return record, resultMiss, answerTime(ctx, err)
}

// pinPrivate fetches a private version, which pins it.
func (s *Server) pinPrivate(ctx context.Context, client string, req request.Request) (sumdb.Record, error) {
	f, _, err := s.joinAnew(ctx, request.Request{Kind: request.Zip, Module: req.Module, Version: req.Version}, true, client)
	if err != nil {
		return sumdb.Record{}, err
	}
	defer f.claim.Leave(client)
	select {
	case <-f.done:
	case <-ctx.Done():
		return sumdb.Record{}, context.Cause(ctx)
	}
	if f.err != nil {
		return sumdb.Record{}, f.err
	}
	entry, err := s.config.Log.Find(req.ModuleVersion())
	return entry.Record(), err
}

// sharePublic is pinPublic, in a place for lookups and once for all clients that ask, if
// the record has to be fetched first.
func (s *Server) sharePublic(ctx context.Context, client string, req request.Request) (sumdb.Record, error) {
	if _, err := s.database().Held(ctx, req.ModuleVersion()); err == nil {
		return s.pinPublic(ctx, req)
	}
	return s.shareLookup(ctx, client, req, work[sumdb.Record]{key: req.Path(),
		do: func(ctx context.Context) (sumdb.Record, error) { return s.pinPublic(ctx, req) }})
}

// pinPublic copies the record of a public version into our log after it was
// proved, with where it came from.
func (s *Server) pinPublic(ctx context.Context, req request.Request) (sumdb.Record, error) {
	db := s.database()
	if _, err := s.still(req.Module, false); err != nil {
		return sumdb.Record{}, err
	}
	record, err := db.Lookup(ctx, req.ModuleVersion())
	if err != nil {
		return sumdb.Record{}, err
	}
	zip, mod, err := record.Hashes(req.ModuleVersion())
	if err != nil {
		return sumdb.Record{}, err
	}
	reply, err := db.Reply(ctx, record)
	if err != nil {
		return sumdb.Record{}, err
	}
	_, _, head, err := tlog.ParseRecord(reply)
	if err != nil {
		return sumdb.Record{}, err
	}
	entry, err := s.config.Log.Pin(ctx, pinlog.Entry{
		Module: req.ModuleVersion(), Zip: zip, Mod: mod,
		Public: &pinlog.PublicProof{Name: db.Name(), ID: record.ID, Head: head},
	})
	var changed *pinlog.ConflictError
	if errors.As(err, &changed) {
		s.noteChanged(changed)
	}
	if err != nil {
		return sumdb.Record{}, ownLogError(err)
	}
	ours := entry.Record()
	if string(ours.Text) != string(record.Text) {
		return sumdb.Record{}, fmt.Errorf("%w: the record of %s in %s does not consist of the expected two lines", sumdb.ErrInvalid, req.ModuleVersion(), db.Name())
	}
	return ours, nil
}
