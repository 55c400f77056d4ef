package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/tiered"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// stores are the parts that store data on disk.
type stores struct {
	objects storage.Store
	bucket  *s3.DB          // below tier
	tier    *tiered.Store   // objects, if it is in a bucket; nil: it is in the data directory
	local   *bolt.DB        // on the local disk: objects itself, or copies of some of what is in the bucket
	place   string          // of objects, if it is in a bucket
	limited *limited        // local, with the limit of disk-limit; nil: there is none
	board   *news.Board     // of the servers that share objects
	mirrors []*sumdb.Mirror // of checksum databases; the first one verifies modules
	ownLog  *pinlog.Log     // nil: there is none
	teller  *logTeller      // of the own log in a bucket; nil: it is in the data directory
	scratch string          // directory

	removeScratch func() error
}

// openStores opens the store, with migrate if an earlier version has made it, and a mirror for
// each checksum database.
func openStores(ctx context.Context, c config.Config, from *inForce, budgets shares, log *slog.Logger, migrate *migration) (*stores, error) {
	databases, err := databasesOf(c)
	if err != nil {
		return nil, err
	}
	if err := admin.CheckRestored(c.Data); err != nil {
		return nil, err
	}
	s, err := openObjects(ctx, c, budgets, log, migrate)
	if err != nil {
		return nil, err
	}
	objects := s.objects
	// A restore may have begun since the first check. It would replace the files that are open here;
	// one that begins from now on finds them, and ends.
	if err := admin.CheckRestored(c.Data); err != nil {
		return nil, errors.Join(err, s.objects.Close())
	}
	if s.scratch, s.removeScratch, err = openScratch(c); err != nil {
		return nil, errors.Join(err, s.objects.Close())
	}
	for _, db := range databases {
		m, err := sumdb.Open(ctx, sumdb.Config{
			Key: db.Key, Store: objects, Current: from.fetchFrom(db.Name),
			Evidence: filepath.Join(c.Data, "evidence"), // also with read-only, so that evidence there freezes the mirror
			Memory:   budgets.proofs, Logger: log, News: s.board, InBucket: c.Store != "",
		})
		if err != nil {
			s.close(log)
			return nil, err
		}
		s.mirrors = append(s.mirrors, m)
	}
	return s, nil
}

// openObjects opens the store alone: in the bucket of the setting store, or in the data directory.
func openObjects(ctx context.Context, c config.Config, budgets shares, log *slog.Logger, migrate *migration) (*stores, error) {
	if err := checkPlace(c, log); err != nil {
		return nil, err
	}
	if c.Store == "" {
		db, err := openEmbedded(ctx, c, budgets, log, migrate)
		if err != nil {
			return nil, err
		}
		s := &stores{objects: db, local: db, board: news.Alone()}
		if s.limited, err = newLimited(ctx, c, db, db, log); err != nil {
			return nil, errors.Join(err, db.Close())
		}
		if s.limited != nil {
			s.objects = s.limited
		}
		return s, nil
	}
	db, id, err := openBucket(ctx, c, budgets, log)
	if err != nil {
		return nil, err
	}
	s := &stores{bucket: db, place: db.Place(), board: news.Listen(db, log)}
	if err := s.openTier(ctx, c, id, budgets, log); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if !c.SingleReplica {
		s.board = news.New(db, log)
	}
	s.board.Confirm(func(ctx context.Context) error { return db.Confirm(ctx, id) })
	if s.limited != nil {
		s.limited.heed(s.board)
	}
	return s, nil
}

// openTier opens the local copies of the store with this ID in the bucket. Files that are damaged, of an earlier layout, or
// not recognized any more are removed: everything is in the bucket.
func (s *stores) openTier(ctx context.Context, c config.Config, id string, budgets shares, log *slog.Logger) (err error) {
	dir, o := filepath.Join(c.Data, tierDir), bolt.Options{Logger: log, Readers: budgets.answers, Writers: budgets.store}
	s.local, err = openLimited(c, dir, o)
	if errors.Is(err, storage.ErrDamaged) || errors.Is(err, storage.ErrOlder) || errors.Is(err, storage.ErrForeign) {
		log.Warn("the local copies are removed, and read from the bucket again", "dir", dir, "why", err)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		s.local, err = openLimited(c, dir, o)
	}
	if errors.Is(err, storage.ErrInUse) {
		return fmt.Errorf("%w, or give this one a data directory of its own", err)
	}
	if err != nil {
		return err
	}
	if s.limited, err = newLimited(ctx, c, s.local, s.bucket, log); err != nil {
		return errors.Join(err, s.local.Close())
	}
	copies := storage.Store(s.local)
	if s.limited != nil {
		copies = s.limited
	}
	s.tier = tiered.New(ctx, tiered.Options{Local: copies, Remote: s.bucket, Source: id, Memory: budgets.store, Logger: log})
	s.objects = s.tier
	// The news of what changed while this process was stopped come after the first clients. An error is no reason not to
	// start: this process doubts all the same, and so will the next one.
	if err := s.tier.Doubt(ctx); err != nil {
		log.Warn("the disk of the local copies takes no writes; free some space there, or look at the disk", "dir", dir, "err", err)
	}
	return nil
}

// openEmbedded opens the store in the data directory, with migrate if an earlier version has made it.
func openEmbedded(ctx context.Context, c config.Config, budgets shares, log *slog.Logger, migrate *migration) (*bolt.DB, error) {
	db, err := openLimited(c, c.Data, bolt.Options{
		Logger: log, Readers: budgets.answers, Writers: budgets.store, ReadOnly: c.ReadOnly, KeepSchema: c.NoMigrate,
		FileLimit: int64(c.StoreLimit) << 20,
		Outdated:  func(old *bolt.Outdated) error { return migrate.run(ctx, old) },
	})
	if c.ReadOnly && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no store in %s to be read; name its directory with --data", c.Data)
	}
	switch {
	case errors.Is(err, storage.ErrInUse):
		return nil, fmt.Errorf("%w, or give this one a directory of its own", err)
	case errors.Is(err, syscall.EROFS):
		return nil, fmt.Errorf("%w, or only serve what is stored there, with --read-only", err)
	case err != nil:
		return nil, err
	}
	return db, nil
}

// openOwnLog opens our own log, or creates it. If the log refuses and nothing needs it, openOwnLog
// only logs that: the data directory is a copy.
func (s *stores) openOwnLog(ctx context.Context, c config.Config, needed bool, budget *memory.Budget, log *slog.Logger) (err error) {
	own := OwnLogConfig(c)
	own.Store, own.Memory, own.ReadOnly = s.objects, budget, c.ReadOnly
	if needed {
		own.Logger = log
	}
	if s.board.Shared() {
		return s.openSharedLog(ctx, c, needed, own, log)
	}
	if err := s.checkOwnName(own.Name); err != nil {
		return err
	}
	if s.bucket != nil { // of a single replica
		other, err := pinlog.Elsewhere(ctx, own, s.bucket)
		if err != nil {
			return err
		}
		if other != "" && needed {
			return fmt.Errorf("the bucket has the own log %s, and a second one in %s would give clients different bytes for one version: "+
				"start without --single-replica and with the key of that log as --log-key, or bring it here with assay log move --back; "+
				"if only its versions are left, a new log needs a new name, --log-name", other, own.Dir)
		}
		if other != "" {
			log.Info("no own log is opened: the bucket has one, and no private modules are configured", "log", other)
			return nil
		}
	}
	s.ownLog, err = pinlog.Open(ctx, own)
	if c.ReadOnly && !needed && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !needed && s.ownLog.Refuses() != nil {
		log.Info("the own log is read-only; no private modules are configured, so nothing is refused", "why", s.ownLog.Refuses())
	}
	if err == nil && c.Unified {
		err = s.checkOwnName(s.ownLog.Name())
	}
	return err
}

// openSharedLog opens the own log in the bucket. Without its key there is none.
func (s *stores) openSharedLog(ctx context.Context, c config.Config, needed bool, own pinlog.Config, log *slog.Logger) error {
	if c.LogKey == "" {
		if needed {
			return errors.New("private modules and unified need an own log, which servers that share a bucket have with log-key; " +
				"make its key and the log once with assay log create, or set single-replica if this is the only server")
		}
		return nil
	}
	shared, guard, err := SharedLogConfig(ctx, c, s.bucket)
	if err != nil {
		return err
	}
	s.teller = newLogTeller(s.board, log)
	if guard != nil {
		s.teller.guard = guard
		if err := probeGuard(ctx, guard); err != nil {
			return err
		}
	}
	shared.Memory, shared.Logger = own.Memory, own.Logger
	shared.Bucket.Announce = s.teller.announce
	if s.ownLog, err = pinlog.Open(ctx, shared); err != nil {
		return err
	}
	s.board.Subscribe(logNews, func(ctx context.Context, _ news.Changes) error { return s.ownLog.Refresh(ctx) })
	return s.checkOwnName(s.ownLog.Name())
}

// runLog tells other servers of changes to the own log until ctx ends.
func (s *stores) runLog(ctx context.Context) {
	if s.teller != nil {
		s.teller.run(ctx)
	}
}

// closeLog closes the own log.
func (s *stores) closeLog() error {
	var errs []error
	if s.ownLog != nil {
		errs = append(errs, s.ownLog.Close())
	}
	if s.teller != nil && s.teller.guard != nil {
		errs = append(errs, s.teller.guard.Close())
	}
	return errors.Join(errs...)
}

// checkOwnName refuses a name of our own log that is also the name of a mirrored database: clients
// of that database would get our log in its place.
func (s *stores) checkOwnName(name string) error {
	for _, m := range s.mirrors {
		if m.Name() == name {
			return fmt.Errorf("the own log must not have the name %s of a checksum database that is served here; set another name with --log-name", name)
		}
	}
	return nil
}

// names returns the names of the databases, for the log.
func (s *stores) names() string {
	var names []string
	for _, m := range s.mirrors {
		names = append(names, m.Name())
	}
	if len(names) == 0 {
		return "off"
	}
	return strings.Join(names, ",")
}

// recheckTime bounds one recheck: a bucket may hang.
const recheckTime = 30 * time.Second

// recheck ends the freeze of mirrors whose evidence the administrator has moved away.
func (s *stores) recheck(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, recheckTime)
	defer cancel()
	for _, m := range s.mirrors {
		if err := m.Recheck(ctx); err != nil {
			log.Warn("checksum database", "database", m.Name(), "err", err)
		}
	}
}

// thaw clears the evidence that a database has forked.
func (s *stores) thaw(ctx context.Context, database, reason string) ([]string, error) {
	for _, m := range s.mirrors {
		if m.Name() == database {
			return m.Thaw(ctx, reason)
		}
	}
	return nil, fmt.Errorf("no checksum database %s is mirrored here; the server mirrors: %s", database, s.names())
}

// metrics returns the collectors of all stores.
func (s *stores) metrics() []prometheus.Collector {
	var all []prometheus.Collector
	if s.ownLog != nil {
		all = s.ownLog.Metrics()
	}
	if measured, ok := s.objects.(storage.Measured); ok {
		all = append(all, measured.Metrics()...)
	}
	for _, m := range s.mirrors {
		all = append(all, m.Metrics()...)
	}
	return append(all, s.board.Metrics()...)
}

// close closes the open stores, from the highest to the lowest.
func (s *stores) close(log *slog.Logger) {
	for _, m := range s.mirrors {
		m.Close()
	}
	if err := s.closeLog(); err != nil {
		log.Error("close log", "err", err)
	}
	if err := s.removeScratch(); err != nil {
		log.Warn("temporary directory not removed", "err", err)
	}
	if err := s.objects.Close(); err != nil {
		log.Error("close store", "err", err)
	}
}

// keepsChanged makes the orders of operators apply here and at other servers that share the store.
func (s *stores) keepsChanged(ctx context.Context) error {
	if s.limited != nil {
		if err := s.limited.keepsChanged(ctx); err != nil {
			return err
		}
	}
	return TellKept(ctx, s.board)
}
