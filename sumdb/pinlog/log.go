// Package pinlog keeps and signs a checksum database of our own: an append-only log of the first
// hashes of module versions, in the formats of sum.golang.org.
//
// A client that has seen a signed head stops at every head that does not continue it. So a log
// signs only entries that are on disk, and nothing at all once its files show that it may have
// signed something else before. See docs/design/log.md.
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

// Config has the location and settings of a log. Dir is required; the zero value of any other field
// is its default.
type Config struct {
	// Dir is the directory of the log. It is created with mode 0700 if it does not exist. Its file
	// system must support locks.
	Dir string

	// Name is the name of a new log, host[/path], as it appears in GOSUMDB and in the signature of
	// each head. The default is random: "assay-" and 8 hex digits. An existing log keeps its name;
	// to open it with another one is an error, because a new name means a new log.
	Name string

	// Bucket is set if several replicas share the log: then it is in a store, and Dir has what this replica
	// knows of it. Store is not used.
	Bucket *Bucket

	// Guard is a file outside Dir, best on another disk or machine, with the tree that was signed
	// last. Its directory must exist. Without it the log does not notice that the whole disk was
	// restored to an older state, until Witness is called with the newer head of a client.
	Guard string

	// Store is the store with the versions that the log pins. The log records in it the tree that
	// was signed last, so that an old copy of the log beside a current store is noticed. The
	// default is none. A Log uses it until Close.
	Store storage.Store

	// Adopt is the command that calls the function Adopt, for the texts of refusals. The default is
	// "assay log adopt".
	Adopt string

	// ReadOnly opens the log without its lock and without its secret key, even while another
	// process has it open. Nothing is signed or written, but evidence in a bucket, see Witness, and the
	// log serves the entries of that moment.
	ReadOnly bool

	// Memory is the budget of the index, which never gives memory back. The index of the entries on
	// disk may exceed it. When it is full, the log appends nothing and Pin returns memory.ErrFull.
	// Nil means no bound.
	Memory *memory.Budget

	Logger *slog.Logger // default: discard
}

// location returns the place of the files and the guards of the log.
func (c Config) location() location { return location{c.Dir, c.Guard, c.Store} }

// Log is a checksum database of our own: an append-only log of the first hashes of module versions,
// signed with a key of its own, in the formats of sum.golang.org. The go command accepts its Key as
// GOSUMDB. All methods may be called concurrently.
//
// A log whose files show that it may have signed something else before refuses: it signs nothing,
// and still serves its entries. See Refuses and Adopt.
//
// In memory an entry takes about 120 bytes (two hashes, an offset, an index entry), 100,000 of them
// about 12 MB; their text is read from the file.
type Log struct {
	config   Config
	key      keyPair
	lock     *os.File // held while the log is open; nil if read-only
	book     *book
	ledger   ledger
	queue    *queue
	appender appender
	refusals *refusals
	lookout  *lookout // nil: no other replica writes
	metrics  *metrics
	log      *slog.Logger
}

// use makes book the entries of the log, and to the place where they are written.
func (l *Log) use(book *book, to ledger) {
	l.book, l.ledger = book, to
	l.appender = appender{book, to, l.queue, l.config.Memory, patience, l.metrics.overtaken.Inc}
}

// Name returns the name of the log, host[/path].
func (l *Log) Name() string { return l.key.name() }

// Key returns the verifier key of the log, NAME+HASH+KEY, in the form of GOSUMDB.
func (l *Log) Key() string { return l.key.public }

// Size returns the number of entries under the newest signed head.
func (l *Log) Size() int64 { return l.book.size() }

// Count returns the number of entries that Find finds: more than Size if the log is in a bucket and open for
// reading, because the newest head there is the one before the last batch.
func (l *Log) Count() int64 { return l.book.view.Load().visible }

// Refuses returns why the log signs nothing new, and how to resolve it; nil if the log takes
// entries. The error is sumdb.ErrFrozen.
func (l *Log) Refuses() error { return l.refusals.reason() }

// Adoptable reports whether the log refuses, and Adopt needs nothing but the word of its
// administrator that no client has seen a newer head: nothing that is here contradicts it.
func (l *Log) Adoptable() bool { return adoptable(l.Refuses()) }

// Metrics returns the collectors of the log.
func (l *Log) Metrics() []prometheus.Collector {
	return append([]prometheus.Collector{l.metrics.appends, l.metrics.overtaken}, l.metrics.gauges...)
}

// Pin appends e as the first content of its version. When Pin returns, the entry is on disk and
// under a signed head; concurrent calls share the writes. If the log has the version with the same
// hashes, Pin returns that entry. It ignores e.ID.
//
// The errors are *ConflictError if the log has other hashes; sumdb.ErrInvalid if no log can contain
// e; sumdb.ErrFrozen if the log refuses; ErrReadOnly; and those of the disk: then the log is
// unchanged, or contains e and does not show it yet, and Pin can be called again. If ctx ends first,
// e may be appended nevertheless.
func (l *Log) Pin(ctx context.Context, e Entry) (Entry, error) {
	pinned, _, err := l.PinWith(ctx, e, Dependents{})
	return pinned, err
}

// PinWith is Pin. If it appends e, it may store the objects of with too, in Config.Store, when the
// entry is on disk: then both wait for the store once. It reports whether the objects are stored. If
// not, and the error is nil, the caller may store them now. After an error they may be stored, or be
// stored later if ctx has ended; then the entry is on disk before them, and Shows reports it when it is
// signed.
func (l *Log) PinWith(ctx context.Context, e Entry, with Dependents) (pinned Entry, stored bool, err error) {
	p, result := newPin(e, with), ""
	if err = l.appender.pin(ctx, p); err == nil {
		pinned, result, err = p.result()
	}
	l.metrics.appends.WithLabelValues(appendResult(result, err)).Inc()
	return pinned, err == nil && p.kept, err
}

// Refresh reads what other replicas have written to a log in a bucket, and whether one of them has frozen it.
// The caller calls it when there are news. A log that refuses because of a contradiction stays as it is.
func (l *Log) Refresh(ctx context.Context) error {
	if err := l.queue.lock(); err != nil {
		return err
	}
	defer l.queue.unlock()
	return l.ledger.look(ctx)
}

// Close waits for a running append, and unlocks the log. Calls of Pin that wait for another append
// return an error.
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
