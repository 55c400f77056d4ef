package budget

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-proxy/assay/storage"
)

const (
	// batch is how many objects are asked for at the same time.
	batch = 8

	// mostRounds bounds one eviction: 256 batches. What is missing then is the work of the next one.
	mostRounds = 256

	// mostFailed is how many batches without an object that can be fetched again end an eviction.
	mostFailed = 16

	// heldAfterNo is how many seconds an object that no upstream has is not asked for again.
	heldAfterNo = 3600

	// heldAfterError is how many seconds an object is not asked for again about which no upstream has answered,
	// although one has answered about others: it may be of an upstream that is away.
	heldAfterError = 600

	// askTime bounds one question.
	askTime = 10 * time.Second

	// pauseAfterError is how long nothing is evicted after no upstream has answered.
	pauseAfterError = 15 * time.Second

	// saveEvery is how often the uses are saved.
	saveEvery = 10 * time.Minute

	// ageEvery is how often objects are looked for that are too old, or, with a short age, leastAgeEvery.
	ageEvery, leastAgeEvery = 10 * time.Minute, time.Second
)

// errPaused says that no upstream has answered a moment ago.
var errPaused = errors.New("no upstream has answered a moment ago")

// evictor evicts objects.
type evictor struct {
	local   Local
	index   *index
	room    *room
	keep    func(context.Context, storage.Info) (string, error)
	maxAge  time.Duration
	log     *slog.Logger
	metrics *metrics

	turn   chan struct{} // has an element while one eviction runs
	woken  chan struct{}
	asker  atomic.Pointer[Asker]
	paused atomic.Pointer[time.Time] // until then nothing is evicted
}

func newEvictor(local Local, x *index, r *room, c Config, m *metrics) *evictor {
	return &evictor{
		local: local, index: x, room: r, keep: x.keep, maxAge: c.MaxAge, log: c.Logger, metrics: m,
		turn: make(chan struct{}, 1), woken: make(chan struct{}, 1),
	}
}

// wake makes run look whether something must be evicted.
func (e *evictor) wake() {
	select {
	case e.woken <- struct{}{}:
	default: // it will look
	}
}

// run evicts until ctx ends.
func (e *evictor) run(ctx context.Context, ask Asker) {
	if ask == nil {
		ask = func(context.Context, storage.Info) (bool, error) { return true, nil }
	}
	e.asker.Store(&ask)
	defer e.asker.Store(nil)
	e.compactFirst(ctx)
	e.wake()
	saving := time.NewTicker(saveEvery)
	defer saving.Stop()
	retry := time.NewTicker(pauseAfterError)
	defer retry.Stop()
	aging := time.NewTicker(min(ageEvery, max(e.maxAge/8, leastAgeEvery)))
	defer aging.Stop()
	for {
		select {
		case <-e.woken:
		case <-retry.C: // upstreams may answer again, and other files in the directory may have grown
		case <-saving.C:
			e.save(ctx)
		case <-aging.C:
			if err := e.evictOld(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errPaused) {
				e.log.Warn("what was not used for long is not evicted now", "err", err)
			}
		case <-ctx.Done():
			e.save(context.WithoutCancel(ctx))
			return
		}
		if _, err := e.evict(ctx, e.room.slack(), countFinished, ranks); err != nil && ctx.Err() == nil && !errors.Is(err, errPaused) {
			e.log.Warn("nothing is evicted, although the disk limit is reached", "err", err)
		}
	}
}

func (e *evictor) save(ctx context.Context) {
	if err := e.index.save(ctx, e.local); err != nil && !errors.Is(err, fs.ErrClosed) {
		e.log.Warn("the next start will not know how objects were used", "err", err)
	}
}

// evict evicts objects of a rank of at most below until n bytes more fit, and reports whether they do. What is
// unfinished displaces no object: it waits for the room that there is. The error
// says that no upstream answers, or that ctx has ended.
func (e *evictor) evict(ctx context.Context, n int64, what counting, below int8) (fits bool, err error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	compacted, failed := false, 0
	for range mostRounds {
		real, worth, u, err := e.room.missing(n, what)
		if err != nil {
			return false, err
		}
		if real <= 0 && worth <= 0 {
			return true, nil
		}
		if worth <= 0 && !compacted && u.Dead+u.Reusable-e.room.reserve() >= real {
			compacted = true
			e.compact(ctx)
			continue
		}
		victims := e.index.victims(batch, max(real, worth), below, worth <= 0)
		if len(victims) == 0 {
			return real <= 0, nil
		}
		gone, err := e.evictAll(ctx, victims)
		if err != nil {
			return false, err
		}
		if gone > 0 {
			failed = 0
		} else if failed++; failed == mostFailed {
			return real <= 0, nil
		}
	}
	return false, nil
}

// compactFirst compacts the store if it is above the limit, and much of that is free pages: its files were copied with
// their holes filled, or are of a time before the limit.
func (e *evictor) compactFirst(ctx context.Context) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return
	}
	real, _, u, err := e.room.missing(e.room.slack(), countFinished)
	if err == nil && real > 0 && u.Dead+u.Reusable-e.room.reserve() > min(real, e.room.limit/8) {
		e.compact(ctx)
	}
}

// compact gives free space in the files back.
func (e *evictor) compact(ctx context.Context) {
	if freed, err := e.local.Compact(ctx); err != nil {
		e.log.Warn("the store was not compacted", "err", err)
	} else {
		e.log.Info("store compacted for the disk limit", "freed_bytes", freed)
	}
	e.room.disk.expire() // the copy that was measured meanwhile is gone
	e.room.changed()
}

// evictOld evicts what was not used for too long, the oldest first. Between two batches others have their turn. The error
// says that no upstream answers, or that ctx has ended.
func (e *evictor) evictOld(ctx context.Context) error {
	if e.maxAge <= 0 {
		return nil
	}
	for victims := range slices.Chunk(e.index.old(time.Now().Add(-e.maxAge).Unix()), batch) {
		select {
		case e.turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		_, err := e.evictAll(ctx, victims)
		<-e.turn
		if err != nil {
			return err
		}
	}
	return nil
}

// outcome is what has become of a victim.
type outcome int

const (
	spared     outcome = iota // nothing was asked, or something failed
	evicted                   // it can be fetched again
	refused                   // no upstream has it
	unanswered                // it is not known whether it can be fetched again
)

// evictAll evicts those of the victims that can be fetched again, and returns how many. The error says that no
// upstream answers.
func (e *evictor) evictAll(ctx context.Context, victims []victim) (n int, err error) {
	ask := e.asker.Load()
	if until := e.paused.Load(); ask == nil || until != nil && time.Now().Before(*until) {
		return 0, errPaused
	}
	results := make([]error, len(victims))
	outcomes := make([]outcome, len(victims))
	var asking sync.WaitGroup
	for i, v := range victims {
		asking.Go(func() { outcomes[i], results[i] = e.evictOne(ctx, v, *ask) })
	}
	asking.Wait()
	err = e.judge(ctx, victims, outcomes, results)
	for _, o := range outcomes {
		if o == evicted {
			n++
		}
	}
	if n > 0 {
		if err := e.local.Deleted(ctx); err != nil {
			return n, err
		}
		e.room.changed()
		return n, nil // some upstream answers
	}
	if err != nil && ctx.Err() == nil {
		until := time.Now().Add(pauseAfterError)
		e.paused.Store(&until)
	}
	return 0, err
}

// judge returns why nothing more can be evicted now. That no upstream answers about an object is no reason if one
// answers about others: then the object is spared, because it would be the next victim again, and for ever.
func (e *evictor) judge(ctx context.Context, victims []victim, outcomes []outcome, results []error) (err error) {
	answered := slices.ContainsFunc(outcomes, func(o outcome) bool { return o == evicted || o == refused })
	for i, o := range outcomes {
		if o == unanswered && ctx.Err() == nil && (answered || e.answers(ctx)) {
			answered = true
			e.index.hold(victims[i].key, heldAfterError)
			continue
		}
		if results[i] != nil {
			err = results[i]
		}
		if o == unanswered {
			return err
		}
	}
	return err
}

// answers reports whether any upstream answers about some objects that are chosen at random.
func (e *evictor) answers(ctx context.Context) bool {
	var answered atomic.Bool
	var asking sync.WaitGroup
	for _, v := range e.index.sample(batch) {
		asking.Go(func() {
			if info, err := e.local.Stat(ctx, v.key); err == nil {
				_, err = e.obtainable(ctx, info, *e.asker.Load())
				answered.CompareAndSwap(false, err == nil)
			}
		})
	}
	asking.Wait()
	return answered.Load()
}

// obtainable asks whether an object can be fetched again. The error says that no upstream answers.
func (e *evictor) obtainable(ctx context.Context, info storage.Info, ask Asker) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return ask(ctx, info)
}

// evictOne evicts an object if it can be fetched again.
func (e *evictor) evictOne(ctx context.Context, v victim, ask Asker) (outcome, error) {
	info, err := e.local.Stat(ctx, v.key)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrDamaged) { // what is damaged is deleted when it is read
		e.index.removed(v.key)
		return spared, nil
	}
	if err != nil {
		return spared, err
	}
	if kept, err := e.kept(ctx, info); kept || err != nil {
		return spared, err
	}
	obtainable, err := e.obtainable(ctx, info, ask)
	if err != nil {
		return unanswered, err
	}
	if !obtainable {
		e.metrics.unobtainable.Inc()
		e.index.hold(v.key, heldAfterNo)
		return refused, nil
	}
	// Again, because that took time: an operator may have said meanwhile that it is kept, and a client may read it.
	if kept, err := e.kept(ctx, info); kept || err != nil || !e.index.free(v) {
		return spared, err
	}
	if err := e.local.Delete(ctx, v.key); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			e.index.removed(v.key)
			return spared, nil
		}
		return spared, err
	}
	e.index.removed(v.key)
	e.metrics.evicted.Inc()
	e.metrics.evictedBytes.Add(float64(v.size))
	e.log.Debug("evicted", "key", v.key, "bytes", v.size)
	return evicted, nil
}

// kept reports whether an object must not be evicted. Then it is no victim any more.
func (e *evictor) kept(ctx context.Context, info storage.Info) (bool, error) {
	reason, err := e.keep(ctx, info)
	if reason != "" {
		e.index.removed(info.Key)
	}
	return reason != "", err
}
