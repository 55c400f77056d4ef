package pinlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// Bucket says that a log is in a store which several replicas share, and what this replica knows of it
// from elsewhere. In the bucket are the entries, and never the key.
type Bucket struct {
	// Store has the log, below storage.LogDir of its name. It must be the bucket itself: a cache that
	// remembers what is absent would hide what other replicas write.
	Store storage.Store

	// Key is the file with the secret key, in the form of the file key of a log in a directory. All
	// replicas have the same. A log that is open ReadOnly needs none.
	Key string

	// Trust is the word of the administrator that the bucket has the newest state of the log. It is needed if
	// nothing outside of the bucket shows so, and contradicts no guard. It begins no log: only Create does.
	Trust bool

	// OthersEnded is the word of the administrator that all other logs in the store have ended: for Create and
	// Move, after which this log signs there in their place.
	OthersEnded bool

	// KeyUnused is the word of the administrator that no log ever had the key in Key, for Create.
	KeyUnused bool

	// Guard is a store elsewhere, best with other credentials, with a state that records the tree that
	// was signed last, for all replicas. The default is none. Config.Guard is such a file.
	Guard storage.Store

	// Place is what the store is called, and ID is its random name, which no other store has. Move, which
	// needs an ID, leaves both in a mark. MoveBack compares it.
	Place, ID string

	// Announce is called when other replicas should call Refresh. It must not wait. Nil is no call.
	Announce func()
}

const (
	// runLength is how many batches one segment has.
	runLength = 256

	// maxSegment bounds a segment. With batches of batchRoom it has 8 MiB.
	maxSegment = 64 << 20

	// readsAtOnce is how many batches are read at the same time; segmentsAtOnce the same for segments.
	readsAtOnce    = 16
	segmentsAtOnce = 4
)

// bucketDir is the objects of one log in a bucket. All are created once and never changed.
type bucketDir struct {
	store storage.Store
	dir   string
}

func newBucketDir(store storage.Store, name string) bucketDir {
	return bucketDir{store, storage.LogDir(name)}
}

func (d bucketDir) batchKey(number int64) string {
	return fmt.Sprintf("%s/batches/%012d", d.dir, number)
}

// segmentKey is the key of the segment whose first batch has this number.
func (d bucketDir) segmentKey(first int64) string {
	return fmt.Sprintf("%s/segments/%012d", d.dir, first)
}

// batch returns the object of a batch, nil if there is none.
func (d bucketDir) batch(ctx context.Context, number int64) ([]byte, error) {
	return d.read(ctx, d.batchKey(number), maxBatch)
}

// read returns the object at key, nil if there is none.
func (d bucketDir) read(ctx context.Context, key string, limit int64) ([]byte, error) {
	object, err := d.store.Open(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer object.Close()
	if size := object.Info().Size; size > limit || size == 0 {
		return nil, fmt.Errorf("%w: %s has %d bytes", sumdb.ErrInvalid, key, size)
	}
	var data bytes.Buffer
	_, err = io.Copy(&data, object)
	return data.Bytes(), err
}

// batches returns the objects of count batches from number first on, up to the first one that is absent.
func (d bucketDir) batches(ctx context.Context, first int64, count int) (all [][]byte, err error) {
	all, err = atOnce(count, count, func(i int) ([]byte, error) { return d.batch(ctx, first+int64(i)) })
	if err != nil {
		return nil, err
	}
	if absent := slices.IndexFunc(all, func(b []byte) bool { return b == nil }); absent >= 0 {
		all = all[:absent]
	}
	return all, nil
}

// atOnce returns the results of do for 0 to before n, of which so many run at the same time.
func atOnce[T any](n, limit int, do func(i int) (T, error)) ([]T, error) {
	results, errs := make([]T, n), make([]error, n)
	places := make(chan struct{}, limit)
	var group sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			results[i], errs[i] = do(i)
		})
	}
	group.Wait()
	return results, errors.Join(errs...)
}

// create creates a batch. The error is fs.ErrExist if there is another one with its number. After any
// other one it may have been created, or be created later.
func (d bucketDir) create(ctx context.Context, number int64, object []byte) error {
	info := storage.Info{Key: d.batchKey(number), Size: int64(len(object))}
	if len(object) > storage.MaxSmall {
		return d.store.Create(ctx, info, bytes.NewReader(object))
	}
	// One request in a bucket, where Create looks first.
	return d.store.Apply(ctx, storage.Batch{Create: []storage.Small{{Info: info, Content: object}}})
}

// createSegment creates a segment, unless there is one.
func (d bucketDir) createSegment(ctx context.Context, first int64, object []byte) error {
	err := d.store.Create(ctx, storage.Info{Key: d.segmentKey(first), Size: int64(len(object))}, bytes.NewReader(object))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// segments returns the numbers of the first batches of all segments, sorted.
func (d bucketDir) segments(ctx context.Context) (firsts []int64, err error) {
	prefix := d.dir + "/segments/"
	for key, err := range d.store.Keys(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		number, err := strconv.ParseInt(strings.TrimPrefix(key, prefix), 10, 64)
		if err != nil || d.segmentKey(number) != key || number%runLength != 0 {
			return nil, fmt.Errorf("%w: %s is no segment of a log", sumdb.ErrInvalid, key)
		}
		firsts = append(firsts, number)
	}
	return firsts, nil
}

// beyond returns the number of a batch after an absent one, 0 if none is found. It looks at the distances
// that are powers of two: one of them is in each part that is as long as what is missing before it.
func (d bucketDir) beyond(ctx context.Context, absent int64) (number int64, err error) {
	const distances = 20
	found, err := atOnce(distances, readsAtOnce, func(i int) (int64, error) {
		number := absent + 1<<i
		_, err := d.store.Stat(ctx, d.batchKey(number))
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		return number, err
	})
	return slices.Max(found), err
}

// bucketLogs returns the names of the directories of all logs in a store.
func bucketLogs(ctx context.Context, store storage.Store) (dirs []string, err error) {
	for key, err := range store.Keys(ctx, storage.LogPrefix) {
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(key, storage.LogPrefix), "/")
		if dir := path.Join(storage.LogPrefix, name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}
