package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// stores are the parts that store data on disk.
type stores struct {
	objects storage.Store
	mirrors []*sumdb.Mirror // of checksum databases; the first one verifies modules
	ownLog  *pinlog.Log     // nil: there is none
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
	objects, err := bolt.Open(c.Data, &bolt.Options{
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
	// A restore may have begun since the first check. It would replace the files that are open here;
	// one that begins from now on finds them, and ends.
	if err := admin.CheckRestored(c.Data); err != nil {
		return nil, errors.Join(err, objects.Close())
	}
	s := &stores{objects: objects}
	if s.scratch, s.removeScratch, err = openScratch(c); err != nil {
		return nil, errors.Join(err, objects.Close())
	}
	for _, db := range databases {
		m, err := sumdb.Open(ctx, sumdb.Config{
			Key: db.Key, Store: objects, Current: from.fetchFrom(db.Name),
			Evidence: filepath.Join(c.Data, "evidence"), // also with read-only, so that evidence there freezes the mirror
			Memory:   budgets.proofs, Logger: log,
		})
		if err != nil {
			s.close(log)
			return nil, err
		}
		s.mirrors = append(s.mirrors, m)
	}
	return s, nil
}

// OwnLogConfig returns the configuration of our own log.
func OwnLogConfig(c config.Config) pinlog.Config {
	return pinlog.Config{Dir: filepath.Join(c.Data, "log"), Name: c.LogName, Guard: c.LogGuard, Adopt: adoptCommand(c)}
}

// adoptCommand returns the command assay log adopt with the settings that it needs.
func adoptCommand(c config.Config) string {
	command := "assay log adopt --data " + ShellWord(c.Data)
	if c.LogGuard != "" {
		command += " --log-guard " + ShellWord(c.LogGuard)
	}
	return command
}

// ShellWord returns text as one word of a shell command, for copying.
func ShellWord(text string) string {
	if strings.ContainsAny(text, " \t\"'\\$`&|;<>()*?#~") {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}

// openOwnLog opens our own log, or creates it. If the log refuses and nothing needs it, openOwnLog
// only logs that: the data directory is a copy.
func (s *stores) openOwnLog(ctx context.Context, c config.Config, needed bool, budget *memory.Budget, log *slog.Logger) (err error) {
	own := OwnLogConfig(c)
	own.Store, own.Memory, own.ReadOnly = s.objects, budget, c.ReadOnly
	if needed {
		own.Logger = log
	}
	if err := s.checkOwnName(own.Name); err != nil {
		return err
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

// recheck ends the freeze of mirrors whose evidence the administrator has moved away.
func (s *stores) recheck(log *slog.Logger) {
	for _, m := range s.mirrors {
		if err := m.Recheck(); err != nil {
			log.Warn("checksum database", "database", m.Name(), "err", err)
		}
	}
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
	return all
}

// close closes the open stores, from the highest to the lowest.
func (s *stores) close(log *slog.Logger) {
	for _, m := range s.mirrors {
		m.Close()
	}
	if s.ownLog != nil {
		if err := s.ownLog.Close(); err != nil {
			log.Error("close log", "err", err)
		}
	}
	if err := s.removeScratch(); err != nil {
		log.Warn("temporary directory not removed", "err", err)
	}
	if err := s.objects.Close(); err != nil {
		log.Error("close store", "err", err)
	}
}
