package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/defect"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

const (
	// textLimit bounds a lookup and a signed head: real ones are below 1 KiB,
	// and a note has at most 100 signatures.
	textLimit = 64 << 10

	// lookupTime is how long upstream may take for a module it has never seen:
	// it clones the repository first (golang/go#70042).
	lookupTime = 150 * time.Second

	// fileTime is the same for what upstream only has to read.
	fileTime = 60 * time.Second

	// refreshGrace is how long an answer of upstream to latest, or its failure, counts as new,
	// so that a client that is ahead of us and asks for one tile after the
	// other does not make us ask each time.
	refreshGrace = time.Second
)

// Config is what a Mirror is made of. Key and Store are needed; the zero value
// of everything else is its default.
type Config struct {
	Key   string // verifier key, name+hash+key
	Store storage.Store
	Fetch FetchFunc // nil: no upstream

	// Current returns what is used instead of Fetch at the moment. Default: Fetch.
	Current func() FetchFunc

	// Evidence is the directory for what proves that the log misbehaves. It
	// is created when needed. A file fork-NAME-*.txt in it keeps the mirror
	// frozen. Without a directory the evidence is only logged, and the freeze
	// ends with the process.
	Evidence string

	// Memory is taken for each lookup while it is fetched and proved, and waited for as
	// long as that may take; for a data tile as it arrives, into the memory.Hold of the
	// context of Fetch. Nil is no bound.
	Memory *memory.Budget

	Refresh time.Duration // how often Run asks for latest; default 10 min
	Logger  *slog.Logger  // default: discard
}

// Mirror is a mirror of one checksum database. All methods may be called at the
// same time.
type Mirror struct {
	config   Config
	name     string
	verifier note.Verifier
	store    storage.Store
	log      *slog.Logger
	metrics  *metrics

	// head is the newest head we proved, nil before the first. It is read
	// without a lock and replaced, only forward, by who has the turn.
	head atomic.Pointer[head]

	// turn is held, by sending to it, by the one who moves the head. It is no
	// mutex so that a waiting caller can leave with its context.
	turn chan struct{}

	// life ends with Close, and with it what flights share. It is no
	// caller's context: a flight outlives the caller who asked first.
	life context.Context
	end  context.CancelFunc

	mu        sync.Mutex             // guards what follows, never held over I/O on the network
	flights   map[string]*flight     // requests to upstream under way, by path
	closed    bool                   // no flight may start any more
	work      sync.WaitGroup         // flights under way; Add under mu
	older     map[tlog.Tree]struct{} // smaller heads that are proved already
	frozen    *freeze                // nil if not frozen
	refreshed time.Time              // when upstream last answered to latest
	asked     time.Time              // when it did, or failed to
}

// Open returns the mirror of the database with c.Key, with the head that
// c.Store has. It does not use the network. It is an error if there is a head
// that does not verify, and none in the history to go back to: a mirror that
// started empty would not detect a log that was rolled back.
func Open(ctx context.Context, c Config) (*Mirror, error) {
	if c.Store == nil {
		return nil, errors.New("sumdb: no store")
	}
	verifier, err := NewVerifier(c.Key)
	if err != nil {
		return nil, err
	}
	if c.Refresh <= 0 {
		c.Refresh = 10 * time.Minute
	}
	if c.Current == nil {
		c.Current = func() FetchFunc { return c.Fetch }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Mirror{
		config:   c,
		name:     verifier.Name(),
		verifier: verifier,
		store:    c.Store,
		log:      c.Logger.With("database", verifier.Name()),
		turn:     make(chan struct{}, 1),
		older:    make(map[tlog.Tree]struct{}),
		flights:  make(map[string]*flight),
	}
	m.metrics = newMetrics(m)
	m.life, m.end = context.WithCancel(context.Background())
	if err := m.Recheck(); err != nil {
		return nil, err
	}
	if err := m.load(ctx); err != nil {
		return nil, fmt.Errorf("checksum database %s: %w", m.name, err)
	}
	return m, nil
}

// Close ends what is under way and waits for it. The store stays open.
func (m *Mirror) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.end()
	m.work.Wait()
}

// connected says whether there is an upstream.
func (m *Mirror) connected() bool { return m.config.Current() != nil }

// errDisconnected says that the upstream was taken away in the middle of
// something.
var errDisconnected = errors.New("no upstream any more")

// fetch is the FetchFunc in force.
func (m *Mirror) fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	f := m.config.Current()
	if f == nil {
		return nil, fmt.Errorf("%s of %s: %w", path, m.name, errDisconnected)
	}
	return f(ctx, path, limit)
}

// Name is the name of the database.
func (m *Mirror) Name() string { return m.name }

// Size is the number of records under our newest head, 0 if there is none.
func (m *Mirror) Size() int64 {
	if h := m.head.Load(); h != nil {
		return h.tree.N
	}
	return 0
}

// HasHead reports whether there is a head, without which nothing can be answered.
func (m *Mirror) HasHead() bool { return m.head.Load() != nil }

// Latest returns our newest signed head, and asks upstream for a first one if
// there is none. The error is fs.ErrNotExist if there is neither head nor
// upstream. It may be a few minutes old: Run is what keeps it new.
func (m *Mirror) Latest(ctx context.Context) ([]byte, error) {
	h, err := m.newest(ctx)
	if err != nil {
		return nil, err
	}
	return h.note, nil
}

// newest is our newest head, which is asked for if there is none.
func (m *Mirror) newest(ctx context.Context) (*head, error) {
	if h := m.head.Load(); h != nil {
		return h, nil
	}
	if !m.connected() {
		return nil, fmt.Errorf("this mirror of %s is empty and has no upstream: %w", m.name, fs.ErrNotExist)
	}
	if err := m.Refresh(ctx); err != nil {
		return nil, err
	}
	return m.head.Load(), nil
}

// Refresh asks upstream for its latest head and makes it ours if it is newer.
// The errors are ErrFrozen, ErrInvalid and those of the FetchFunc and the
// store; a mirror without upstream has nothing to refresh from, which is an
// error too.
func (m *Mirror) Refresh(ctx context.Context) error {
	if !m.connected() {
		return fmt.Errorf("refresh %s: no upstream", m.name)
	}
	if err := m.thawed(); err != nil {
		return err
	}
	_, err := m.share(ctx, "latest", fileTime, func(ctx context.Context) (any, error) {
		defer m.noteAsked()
		msg, err := m.fetch(ctx, "latest", textLimit)
		if errors.Is(err, fs.ErrNotExist) {
			// Not to be mistaken for the absence of a module or a tile.
			return nil, fmt.Errorf("%w: %s has no latest: %v", ErrInvalid, m.name, err)
		}
		if err != nil {
			return nil, fmt.Errorf("latest of %s: %w", m.name, err)
		}
		if err := m.accept(ctx, msg, "latest"); err != nil {
			return nil, err
		}
		m.mu.Lock()
		m.refreshed = time.Now()
		m.mu.Unlock()
		return nil, m.mend(ctx)
	})
	return err
}

// noteAsked notes that upstream has just been asked for its latest head.
func (m *Mirror) noteAsked() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = time.Now()
}

// Run asks for the latest head at once and then every Config.Refresh, until ctx
// ends; it returns nil then. Errors are logged: the next round may go better.
func (m *Mirror) Run(ctx context.Context) error {
	ticker := time.NewTicker(m.config.Refresh)
	defer ticker.Stop()
	for {
		if !m.connected() {
			// There may be one later.
		} else if err := m.Refresh(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("latest head not refreshed", "size", m.Size(), "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// flight is work that callers share.
type flight struct {
	done   chan struct{} // closed when it has ended, after value and err were set
	value  any
	err    error
	cancel context.CancelFunc
	shared int // callers that wait, guarded by Mirror.mu
}

// share does f once for all who ask for key at the same time. The work has a
// deadline of its own and goes on when the one who asked first leaves; it ends when
// no caller waits any more. Callers leave with their own context.
func (m *Mirror) share(ctx context.Context, key string, limit time.Duration, f func(context.Context) (any, error)) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	shared, err := m.board(ctx, key, limit, f)
	if err != nil {
		return nil, err
	}
	select {
	case <-shared.done:
		return shared.value, shared.err
	case <-ctx.Done():
		m.leave(key, shared)
		return nil, ctx.Err()
	}
}

// board returns the flight for key, with one caller more, and starts it if there is none:
// with what the context of the first caller says, and not with its end.
func (m *Mirror) board(ctx context.Context, key string, limit time.Duration, f func(context.Context) (any, error)) (*flight, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("mirror of %s is closed", m.name)
	}
	shared := m.flights[key]
	if shared == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		stop := context.AfterFunc(m.life, cancel)
		shared = &flight{done: make(chan struct{}), cancel: func() { stop(); cancel() }}
		m.flights[key] = shared
		m.work.Add(1)
		go m.fly(ctx, key, shared, f)
	}
	shared.shared++
	return shared, nil
}

// fly does the work of a flight.
func (m *Mirror) fly(ctx context.Context, key string, shared *flight, f func(context.Context) (any, error)) {
	defer m.work.Done()
	defer shared.cancel()
	shared.err = defect.Catch(func() (err error) {
		shared.value, err = f(ctx)
		return err
	})
	m.land(key, shared)
	close(shared.done)
}

// land makes the next caller for key start a flight of its own.
func (m *Mirror) land(key string, shared *flight) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flights[key] == shared {
		delete(m.flights, key)
	}
}

// leave takes a caller away from a flight, which ends with the last one.
func (m *Mirror) leave(key string, shared *flight) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if shared.shared--; shared.shared > 0 {
		return
	}
	if m.flights[key] == shared {
		delete(m.flights, key)
	}
	shared.cancel()
}

// takeTurn waits until nobody else moves the head. giveTurn must follow.
func (m *Mirror) takeTurn(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Mirror) giveTurn() { <-m.turn }

// key is where the file at path is kept in the store.
func (m *Mirror) key(path string) string { return storage.Key("sumdb/" + m.name + "/" + path) }
