package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/budget"
	"github.com/assay-proxy/assay/storage/news"
)

// limited is a store in the data directory with the setting disk-limit or disk-age.
type limited struct {
	*budget.Store
	keeper *content.Keeper
	bucket storage.Store // it has copies of what is there; nil: it has objects of its own
}

// keptNews is the kind of news about the orders of operators to keep versions.
const keptNews = "kept"

// newLimited returns the store of the data directory with its limit, nil if there is none. orders has the orders of
// operators: db itself, or the bucket of whose objects db has copies.
func newLimited(ctx context.Context, c config.Config, db *bolt.DB, orders storage.Store, log *slog.Logger) (*limited, error) {
	if !limits(c) {
		return nil, nil
	}
	if math.MaxInt == math.MaxInt32 && c.DiskLimit > 1<<30 {
		return nil, fmt.Errorf("disk-limit is %v; on systems with 32 bits it must be at most 1GiB", c.DiskLimit)
	}
	keeper, err := content.NewKeeper(ctx, orders)
	if err != nil {
		return nil, err
	}
	if c.Store == "" && (c.SumDB == "off" || c.Upstream == "off") {
		log.Warn("disk-limit or disk-age is set, but nothing is evicted: only zips that a checksum database proves and an upstream has can be fetched again",
			"sumdb", c.SumDB)
	}
	l := &limited{keeper: keeper}
	limit := budget.Config{Limit: int64(c.DiskLimit), MaxAge: c.DiskAge, Dir: c.Data, Keep: keeper.Reason, Logger: log}
	if c.Store != "" {
		l.bucket, limit.Keep = orders, keeper.Ordered
	}
	l.Store, err = budget.New(ctx, db, limit)
	if small := new(budget.TooSmallError); l.bucket != nil && errors.As(err, &small) {
		// The bucket has everything: a server that starts is worth more than copies of what is pinned.
		log.Warn("the copies of what assay pin keeps leave too little room below disk-limit, and may be evicted like all others until the next start; "+
			"raise disk-limit, or pin less", "why", err)
		limit.Keep = nil
		l.Store, err = budget.New(ctx, db, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("disk-limit: %w", err)
	}
	return l, nil
}

// limits reports whether objects in the data directory may be evicted. A server that only reads stores nothing.
func limits(c config.Config) bool { return (c.DiskLimit > 0 || c.DiskAge > 0) && !c.ReadOnly }

// vcsBytes returns how many bytes clones of repositories may take: at most an eighth of the disk limit.
func vcsBytes(c config.Config) int64 {
	most := int64(c.VCSCache) << 20
	if c.DiskLimit > 0 && limits(c) {
		most = min(most, int64(c.DiskLimit)/8)
	}
	return most
}

// keepsChanged makes the orders of operators apply to what is evicted from now on.
func (l *limited) keepsChanged(ctx context.Context) error {
	if changed, err := l.keeper.Load(ctx); !changed || err != nil {
		return err
	}
	return l.Changed(ctx)
}

// TellKept tells the servers that share a store that the orders of operators in it have changed.
func TellKept(ctx context.Context, board *news.Board) error {
	if err := board.Post(ctx, news.Event{Kind: keptNews}); err != nil {
		return fmt.Errorf("the order is stored, but servers may not know it until they are restarted; give it again: %w", err)
	}
	return nil
}

// heed makes the orders apply that other servers, or commands, have put into the store.
func (l *limited) heed(board *news.Board) {
	board.Subscribe(keptNews, func(ctx context.Context, _ news.Changes) error { return l.keepsChanged(ctx) })
}

// run evicts until ctx ends. obtainable says whether an object can still be fetched from an upstream. A copy must be there
// in the bucket.
func (l *limited) run(ctx context.Context, obtainable budget.Asker) {
	if l.bucket != nil {
		obtainable = askBucket(l.bucket)
	}
	l.Run(ctx, obtainable)
}

// askBucket asks a bucket for an object, at most once a second while it has what it is asked for: then it has all. While it
// is away its copies are all that can be served.
func askBucket(bucket storage.Store) budget.Asker {
	var mu sync.Mutex
	var had time.Time
	return func(ctx context.Context, info storage.Info) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(had) < time.Second {
			return true, nil
		}
		_, err := bucket.Stat(ctx, info.Key)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err == nil {
			had = time.Now()
		}
		return err == nil, err
	}
}

// openLimited opens the files of a store in dir, whose space is returned if there is a limit.
func openLimited(c config.Config, dir string, o bolt.Options) (*bolt.DB, error) {
	if limits(c) {
		o.ReturnSpace = true
	}
	if c.DiskLimit > 0 {
		o.Journal = budget.JournalFor(int64(c.DiskLimit))
	}
	db, err := bolt.Open(dir, &o)
	return db, explainHoles(err)
}

// explainHoles adds what to do to an error of a file system without holes.
func explainHoles(err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("%w; disk-limit and disk-age need a file system that supports them, such as ext4, XFS, Btrfs or ZFS on Linux: move the data directory, or use store-limit", err)
	}
	return err
}

var _ storage.Store = limited{}
