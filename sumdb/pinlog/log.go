// Package pinlog keeps and signs a checksum database of our own: an append-only log of
// the first hashes of module versions, in the formats of sum.golang.org.
//
// A client that has seen a signed head stops at every head that does not continue it.
// So a log signs nothing before it is on disk, and nothing at all once its files show
// that it may have signed something else before. docs/design/log.md has the whole of it.
package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// Config says where a log is. Dir is needed; the zero value of everything
// else is its default.
type Config struct {
	// Dir is the directory of the log. It is made, for its owner alone, if it
	// is not there. It must be on a file system with locks that hold.
	Dir string

	// Name is the name of a new log, host[/path], as it is in GOSUMDB and in
	// the signature of each head. The default is made up: "assay-" and 8 hex
	// digits. A log that is there keeps its name; to ask for another is an
	// error, because a new name is a new log.
	Name string

	// Guard is a file outside Dir, best on another disk or machine, which has
	// the tree that was signed last. Its directory must be there. Without it a
	// disk that is set back as a whole goes unnoticed until a client's newer
	// head is shown to Witness.
	Guard string

	// Store is the store that has the versions which the log pins. It remembers the
	// tree that was signed last, so that a log which is put back beside a store that
	// stays is noticed. The default is none. A Log uses it until Close.
	Store storage.Store

	// Adopt is the command with which the operator has Adopt called, as the texts
	// of refusals say it. The default is "assay log adopt".
	Adopt string

	// ReadOnly opens the log without its lock and without its secret key, also
	// while another process has it open. Nothing is signed or written, and the
	// log stays what it was at that moment.
	ReadOnly bool

	// Memory is taken for the index, and never given back. What is on disk is taken
	// whether it is there or not; without room for more the log appends nothing, and
	// Pin returns memory.ErrFull. Nil is no bound.
	Memory *memory.Budget

	Logger *slog.Logger // default: discard
}

// Log is a checksum database of our own: an append-only log of the first hashes
// of module versions, signed with a key of its own, in the formats of
// sum.golang.org, so that the go command takes its Key as GOSUMDB. All methods
// may be called at the same time.
//
// A client that has seen a head stops at every head that does not continue it. So
// a Log signs nothing before it is on disk, and nothing at all when its files
// show that it may have signed something else before: it refuses. Then it
// goes on to answer what it has; see Refuses and Adopt.
//
// In memory an entry takes about 120 bytes (entryMemory) (two hashes, an offset, an index
// entry), 100,000 of them about 12 MB; their text is read from the file.
type Log struct {
	config   Config
	key      string // verifier key
	verifier note.Verifier
	signer   note.Signer // nil if read-only
	log      *slog.Logger
	metrics  *metrics

	lock    *os.File // held while we are open; nil if read-only
	entries *os.File
	heads   *os.File // nil if nothing is signed

	// turn is held, by sending to it, by the one who writes. It is no mutex
	// so that a waiting caller can leave with its context.
	turn chan struct{}

	// What follows belongs to who has the turn.
	tree     hashTree // all entries that are on disk, also those not signed yet
	headsEnd int64    // of the file of heads
	clean    bool     // what a crash may have left behind them is gone

	guarded tlog.Tree // what all guards had when they were last written or read

	// view is what can be seen. It is replaced as a whole.
	view atomic.Pointer[view]

	mu      sync.RWMutex       // guards what follows, never held over I/O
	index   map[indexKey]int64 // of all entries in tree
	queue   []*pin
	refuses error
	closed  bool
}

// view is the log at one moment. It does not change.
type view struct {
	tree    hashTree
	visible int64       // entries that can be found, at most those of tree
	head    *signedHead // nil only if the log refuses and no head is left
}

// size is the number of entries under the signed head.
func (v *view) size() int64 {
	if v.head == nil {
		return 0
	}
	return v.head.tree.N
}

// Open opens the log in c.Dir, or makes an empty one with a new key. One
// process at a time can have it open, but for ReadOnly; the error is
// storage.ErrInUse for the second. A log whose files are damaged or contradict
// each other is opened and Refuses, unless nothing of it can be used: then the
// error is sumdb.ErrFrozen. To open a log ReadOnly that is not there, or not made to the
// end, is fs.ErrNotExist.
func Open(ctx context.Context, c Config) (*Log, error) {
	l, err := newLog(c)
	if err != nil {
		return nil, fmt.Errorf("log in %s: %w", c.Dir, err)
	}
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("log in %s: %w", c.Dir, err), l.closeFiles())
	}
	return l, nil
}

func newLog(c Config) (*Log, error) {
	if c.Dir == "" {
		return nil, errors.New("no directory")
	}
	if c.Adopt == "" {
		c.Adopt = "assay log adopt"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Guard != "" {
		if in, err := inside(c.Dir, c.Guard); err != nil || in {
			return nil, errors.Join(err, fmt.Errorf("the guard %s must be outside the directory that it guards", c.Guard))
		}
	}
	l := &Log{config: c, log: c.Logger, turn: make(chan struct{}, 1)}
	l.metrics = newMetrics(l)
	return l, nil
}

// open does what Open does, but leaves files open if it fails.
func (l *Log) open(ctx context.Context) error {
	if err := l.openKey(ctx, true); err != nil {
		return err
	}
	d, err := l.reader(false).read(ctx)
	if err != nil {
		return err
	}
	if len(d.damage) > 0 {
		return l.openRefusing(ctx)
	}
	if err := l.openFiles(d); err != nil {
		return err
	}
	if !l.config.ReadOnly {
		return l.resume(d)
	}
	if l.showSigned(d); l.view.Load().head == nil {
		return fmt.Errorf("nothing is signed yet, the making of the log did not come to its end: %w", fs.ErrNotExist)
	}
	return nil
}

// reader reads the files of l.
func (l *Log) reader(all bool) diskReader {
	return diskReader{l.config.Dir, l.config.Guard, l.config.Store, l.key, l.verifier, all}
}

// openRefusing opens a log that must not sign. Nothing on disk is changed. All
// heads are looked through for the newest that the entries still bear out.
func (l *Log) openRefusing(ctx context.Context) error {
	d, err := l.reader(true).read(ctx)
	if err != nil {
		return err
	}
	l.refuses = l.refusal(errors.Join(d.damage...), d)
	if err := l.openFiles(d); err != nil {
		return err
	}
	l.view.Store(&view{l.tree, l.tree.size(), d.newestHead()})
	l.log.Error("the log signs nothing new", "database", l.Name(), "size", l.Size(), "entries", l.tree.size(), "err", l.refuses)
	return nil
}

// openFiles opens the files that stay open, and takes over what was read of them.
func (l *Log) openFiles(d *disk) (err error) {
	l.tree, l.index, l.headsEnd = d.tree, d.index, d.headsSize
	l.config.Memory.Must(l.tree.size() * entryMemory)
	if l.config.ReadOnly || l.refuses != nil {
		l.entries, err = os.Open(l.path("entries"))
		return err
	}
	if l.entries, err = os.OpenFile(l.path("entries"), os.O_RDWR, 0); err != nil {
		return err
	}
	l.heads, err = os.OpenFile(l.path("heads"), os.O_RDWR|os.O_CREATE, 0o600)
	return err
}

// resume does what a crash may have left to do: what is torn is cut off, what is
// whole and not signed yet is signed. If that cannot be done now, a full disk for
// instance, the next Pin does it; until then there is the head we have.
func (l *Log) resume(d *disk) error {
	l.showSigned(d)
	if d.settled {
		l.guarded = l.view.Load().head.tree
	}
	if d.touched {
		l.log.Info("the file of entries was changed by something else than this program; chown, chmod and a backup by links do so, "+
			"and so does a copy that was put back with all its guards", "database", l.Name(), "size", l.tree.size())
	}
	if d.tail != nil {
		l.log.Warn("a torn entry is cut off", "database", l.Name(), "size", l.tree.size(), "err", d.tail)
	}
	err := l.cutTails()
	if err == nil {
		err = l.publish(!d.settled)
	}
	switch {
	case err != nil && l.view.Load().head == nil:
		return err
	case l.Refuses() != nil: // it was said why
	case err != nil:
		l.log.Error("the log cannot be written, the next append tries again", "database", l.Name(), "size", l.Size(), "err", err)
	default:
		l.log.Info("log opened", "database", l.Name(), "size", l.Size())
	}
	return nil
}

// showSigned makes visible what the newest head covers.
func (l *Log) showSigned(d *disk) {
	v := &view{tree: l.tree, head: d.newestHead()}
	v.visible = v.size()
	l.view.Store(v)
}

// cutTails cuts off what was torn by a crash, once. No head and no guard covers it.
// The turn is ours.
func (l *Log) cutTails() error {
	if l.clean {
		return nil
	}
	err := l.syncEntries()
	if err == nil {
		err = errors.Join(l.heads.Truncate(l.headsEnd), l.heads.Sync(), durable.SyncDir(l.config.Dir))
	}
	l.clean = err == nil
	return err
}

// syncEntries makes the entries that are whole durable, and nothing behind them.
// Those that no head covers are written once more: if their sync failed, in the
// process before us, the system thinks that there is nothing left to write. If there
// is no room for that, it can be tried again.
func (l *Log) syncEntries() error {
	from := l.tree.offsets[l.view.Load().size()]
	_, err := io.Copy(io.NewOffsetWriter(l.entries, from), io.NewSectionReader(l.entries, from, l.tree.end()-from))
	if err == nil {
		err = l.cutEntries()
	}
	if err != nil {
		return diskError(err)
	}
	if err := l.entries.Sync(); err != nil {
		return l.stop(err)
	}
	return nil
}

// cutEntries cuts off what follows the last whole entry. A file that has its length is
// left alone: the guard says when it was changed.
func (l *Log) cutEntries() error {
	info, err := l.entries.Stat()
	if err != nil || info.Size() == l.tree.end() {
		return err
	}
	return l.entries.Truncate(l.tree.end())
}

// errClosed says that the log was closed.
var errClosed = fmt.Errorf("log is closed: %w", fs.ErrClosed)

// Close waits for the append that is under way, and releases the log. Callers
// that wait for another append get an error.
func (l *Log) Close() error {
	if err := l.takeTurn(); err != nil {
		return nil // closed before
	}
	defer l.giveTurn()
	l.mu.Lock()
	l.closed = true
	queue := l.queue
	l.queue = nil
	l.mu.Unlock()
	for _, p := range queue {
		p.finish(errClosed)
	}
	return l.closeFiles()
}

func (l *Log) closeFiles() error {
	var errs []error
	for _, f := range []*os.File{l.entries, l.heads, l.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// takeTurn waits until nobody else writes. giveTurn must follow if there is no
// error.
func (l *Log) takeTurn() error {
	l.turn <- struct{}{}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		l.giveTurn()
		return errClosed
	}
	return nil
}

func (l *Log) giveTurn() { <-l.turn }

// path is that of a file of the log.
func (l *Log) path(name string) string { return filepath.Join(l.config.Dir, name) }

// Name is the name of the log, host[/path].
func (l *Log) Name() string { return l.verifier.Name() }

// Key is the verifier key of the log, NAME+HASH+KEY, as GOSUMDB takes it.
func (l *Log) Key() string { return l.key }

// Size is the number of entries under the newest signed head.
func (l *Log) Size() int64 {
	if v := l.view.Load(); v != nil {
		return v.size()
	}
	return 0
}

// Refuses says why nothing new is signed, and what to do about it; nil if the log
// takes entries. The error is sumdb.ErrFrozen.
func (l *Log) Refuses() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.refuses
}

// refusal is why a log refuses. It is a sumdb.ErrFrozen with words of its own.
type refusal struct {
	text string
	err  error
}

func (r *refusal) Error() string   { return r.text }
func (r *refusal) Unwrap() []error { return []error{sumdb.ErrFrozen, r.err} }

// frozen is a refusal with the text of a fmt.Errorf.
func frozen(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &refusal{err.Error(), err}
}

// refusal makes a sumdb.ErrFrozen of why. d is what was read of the files, nil if they were
// not read: it says whether the operator alone can tell that nothing is lost.
func (l *Log) refusal(why error, d *disk) error {
	var restored string
	if d != nil && l.mayAdopt(d, false) == nil {
		restored = fmt.Sprintf("if this is the newest backup, put back after the loss of a machine, and no client has seen a newer head, "+
			"stop the server, run this, and start it again: %s --no-client-has-seen-more; otherwise ", l.config.Adopt)
	}
	return &refusal{fmt.Sprintf("the log %s signs nothing new, because it may have signed something else before: %s; "+
		"%sfind the newest signed head that a client has seen (in $GOPATH/pkg/sumdb/%s/latest) and a copy of the log that contains it, "+
		"stop the server and run: %s --head FILE; if there is no such copy, begin a new log under a new name",
		l.Name(), oneLine(why), restored, l.Name(), l.config.Adopt), why}
}
