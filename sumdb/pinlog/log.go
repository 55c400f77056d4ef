// Package pinlog keeps and signs a checksum database of our own: an append-only log of
// the first hashes of module versions, in the formats of sum.golang.org.
//
// A client that has seen a signed head stops at every head that does not continue it.
// So a log signs nothing before it is on disk, and nothing at all once its files show
// that it may have signed something else before. See docs/design/log.md.
package pinlog

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// Config says where a log is. Dir is needed; the zero value of everything
// else is its default.
type Config struct {
	// Dir is the directory of the log. It is created with mode 0700 if it does not
	// exist. Its file system must have locks that work.
	Dir string

	// Name is the name of a new log, host[/path], as it is in GOSUMDB and in
	// the signature of each head. The default is random: "assay-" and 8 hex
	// digits. An existing log keeps its name; to ask for another is an error,
	// because a new name is a new log.
	Name string

	// Guard is a file outside Dir, best on another disk or machine, which has
	// the tree that was signed last. Its directory must exist. Without it the
	// log does not notice a disk that is set back as a whole, until Witness is
	// called with the newer head of a client.
	Guard string

	// Store is the store that has the versions which the log pins. It records the
	// tree that was signed last, so that an old copy of the log beside a current
	// store is noticed. The default is none. A Log uses it until Close.
	Store storage.Store

	// Adopt is the command that calls the function Adopt, for the texts of refusals.
	// The default is "assay log adopt".
	Adopt string

	// ReadOnly opens the log without its lock and without its secret key, even while
	// another process has it open. Nothing is signed or written, and the log shows
	// the entries of that moment.
	ReadOnly bool

	// Memory is the budget of the index, which gives nothing back. The index of what
	// is on disk may exceed it; when it is full, the log appends nothing and Pin
	// returns memory.ErrFull. Nil is no bound.
	Memory *memory.Budget

	Logger *slog.Logger // default: discard
}

// location is where the log has its files and its guards.
func (c Config) location() location { return location{c.Dir, c.Guard, c.Store} }

// Log is a checksum database of our own: an append-only log of the first hashes
// of module versions, signed with a key of its own, in the formats of
// sum.golang.org, so that the go command takes its Key as GOSUMDB. All methods
// may be called at the same time.
//
// A log whose files show that it may have signed something else before refuses: it signs
// nothing, and still answers from its entries. See Refuses and Adopt.
//
// In memory an entry takes about 120 bytes (two hashes, an offset, an index entry),
// 100,000 of them about 12 MB; their text is read from the file.
type Log struct {
	config   Config
	key      keyPair
	lock     *os.File // held while the log is open; nil if read-only
	ledger   *ledger
	queue    *queue
	appender appender
	refusals *refusals
	metrics  *metrics
	log      *slog.Logger
}

// Name is the name of the log, host[/path].
func (l *Log) Name() string { return l.key.name() }

// Key is the verifier key of the log, NAME+HASH+KEY, as GOSUMDB takes it.
func (l *Log) Key() string { return l.key.public }

// Size is the number of entries under the newest signed head.
func (l *Log) Size() int64 { return l.ledger.size() }

// Refuses says why nothing new is signed, and what to do about it; nil if the log
// takes entries. The error is sumdb.ErrFrozen.
func (l *Log) Refuses() error { return l.refusals.reason() }

// Metrics returns the collectors of the log.
func (l *Log) Metrics() []prometheus.Collector {
	return append([]prometheus.Collector{l.metrics.appends}, l.metrics.gauges...)
}

// Pin appends e as the first content of its version. The entry is on disk and under a
// signed head when Pin returns; concurrent calls share the writes. If the log has the
// version with the same hashes, Pin returns that entry. It ignores e.ID.
//
// The errors are *ConflictError if the log has other hashes; sumdb.ErrInvalid if e can
// be in no log; sumdb.ErrFrozen if the log refuses; and those of the disk: then
// the log is as before, or has e without showing it yet, and Pin can be called again. If
// ctx ends first, e may be appended nevertheless.
func (l *Log) Pin(ctx context.Context, e Entry) (Entry, error) {
	stored, result, err := l.appender.pin(ctx, e)
	l.metrics.appends.WithLabelValues(appendResult(result, err)).Inc()
	return stored, err
}

// Close waits for the append that is under way, and unlocks the log. Calls of Pin that
// wait for another append return an error.
func (l *Log) Close() error {
	if err := l.queue.lock(); err != nil {
		return nil // closed before
	}
	defer l.queue.unlock()
	l.queue.close()
	return l.closeFiles()
}

func (l *Log) closeFiles() error {
	var errs []error
	if l.ledger != nil {
		errs = append(errs, l.ledger.close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}
