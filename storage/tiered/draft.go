package tiered

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// maxCommits is how many large contents are stored locally that callers have written to the bucket. More
// are not stored until they are read.
const maxCommits = 8

// drafts are those of the bucket, whose contents are stored locally, too.
type drafts struct {
	fills   *fills
	remote  storage.Store
	commits chan struct{}
}

func (ds *drafts) draft(ctx context.Context, size int64) (storage.Draft, error) {
	d, err := ds.remote.Draft(ctx, size)
	if err != nil {
		return nil, err
	}
	return &draft{Draft: d, drafts: ds, sum: sha256.New(), users: 1}, nil
}

// stamped returns info with the time that both stores are to have.
func stamped(info storage.Info) storage.Info {
	if info.Time.IsZero() {
		info.Time = time.Now()
	}
	info.Time = info.Time.UTC().Truncate(time.Second)
	return info
}

// draft is a draft of the bucket. Its bytes are in one place, the spool of the bucket, until they are in the
// local store.
type draft struct {
	storage.Draft
	drafts *drafts
	sum    hash.Hash
	ended  atomic.Bool

	mu    sync.Mutex
	users int // the caller, and the fill that stores the content
}

func (d *draft) Write(p []byte) (int, error) {
	n, err := d.Draft.Write(p)
	d.sum.Write(p[:n])
	return n, err
}

func (d *draft) ReadAt(p []byte, offset int64) (int, error) {
	if d.ended.Load() {
		return 0, fmt.Errorf("draft: %w", fs.ErrClosed)
	}
	return d.Draft.ReadAt(p, offset)
}

// Commit implements storage.Draft.
func (d *draft) Commit(ctx context.Context, info storage.Info) error {
	info = stamped(info)
	t := d.drafts.fills.cache.lines.change(info.Key)
	err := d.Draft.Commit(ctx, info)
	t.done()
	if err != nil {
		t.back()
		return err
	}
	if s := d.spool(ctx, info.Size); s != nil {
		d.drafts.fills.add(t, info, [sha256.Size]byte(d.sum.Sum(nil)), s)
	} else {
		t.back()
	}
	return nil
}

// spool returns the content for the local store, nil if too much is under way.
func (d *draft) spool(ctx context.Context, size int64) spool {
	if size <= smallSize { // the bucket needs the memory for other drafts
		b := d.drafts.fills.budget.buffer(ctx, size)
		if b == nil {
			return d.skip()
		}
		if _, err := io.Copy(b, io.NewSectionReader(d.Draft, 0, size)); err != nil {
			_ = b.Close()
			return d.skip()
		}
		return b
	}
	select {
	case d.drafts.commits <- struct{}{}:
	default:
		return d.skip()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users++
	return &borrowed{d}
}

func (d *draft) skip() spool {
	d.drafts.fills.metrics.skipped.Inc()
	return nil
}

// Close implements storage.Draft.
func (d *draft) Close() error {
	if d.ended.Swap(true) {
		return fmt.Errorf("close draft: %w", fs.ErrClosed)
	}
	return d.leave()
}

func (d *draft) leave() error {
	d.mu.Lock()
	d.users--
	last := d.users == 0
	d.mu.Unlock()
	if !last {
		return nil
	}
	return d.Draft.Close()
}

// borrowed is the spool of a draft, for a fill.
type borrowed struct{ d *draft }

func (b *borrowed) Write([]byte) (int, error) { return 0, fs.ErrClosed }

func (b *borrowed) ReadAt(p []byte, offset int64) (int, error) { return b.d.Draft.ReadAt(p, offset) }

func (b *borrowed) Close() error {
	<-b.d.drafts.commits
	return b.d.leave()
}
