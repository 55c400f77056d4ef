package bolt

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// DecodeRecord returns the contents of an object record, and the object's content if it is inline.
func DecodeRecord(key string, b []byte) (storage.Info, []byte, error) {
	r, err := decodeRecord(key, b)
	if err != nil {
		return storage.Info{}, nil, err
	}
	if r.blob == nil {
		err = r.checkContent()
	}
	return r.info, r.content, err
}

// StoredContent returns the verified content of a small object in the tree.
func StoredContent(tx *bbolt.Tx, key string) ([]byte, error) {
	r, err := decodeRecord(key, tx.Bucket(bucketObjects).Get([]byte(key)))
	if err == nil {
		err = fetchApart(tx, r)
	}
	if err != nil {
		return nil, err
	}
	return r.content, r.checkContent()
}

// MaxRecent is the largest number of objects in the journal, and MergeSlice that in one transaction of a
// merge.
var MaxRecent, MergeSlice = usualLimits().objects, usualLimits().sliceObjects

// InJournal returns the number of objects in the journal.
func (db *DB) InJournal() int {
	n, _ := db.journal.totals()
	return int(n)
}

// Settle puts the objects of the journal into the tree.
func (db *DB) Settle() error { return db.journal.settle() }

// LeftOfSettle settles the slices between which others write, and returns the bytes of the objects that are
// left then, for which all wait.
func (db *DB) LeftOfSettle() (bytes int64, err error) {
	for n := int64(1); n > 0 && err == nil; {
		n, err = db.journal.settleSlice()
	}
	_, bytes = db.journal.totals()
	return bytes, err
}

// HalfMerge puts every other object of the journal into the tree, as a merge that is interrupted.
func (db *DB) HalfMerge() error {
	var half []entry
	for i, e := range db.journal.from("", "", math.MaxInt) {
		if i%2 == 0 {
			half = append(half, e)
		}
	}
	return db.meta.update(0, func(tx *bbolt.Tx) error { return putEntries(tx, half) })
}

// UnsureMerge is a merge whose last fsync failed, although all of it is in the file.
func (db *DB) UnsureMerge() error {
	all := db.journal.from("", "", math.MaxInt)
	err := db.meta.update(0, func(tx *bbolt.Tx) error {
		return errors.Join(putEntries(tx, all), beginJournal(tx, crand.Text(), db.journal.limits.minSize))
	})
	db.meta.commitMu.Lock()
	defer db.meta.commitMu.Unlock()
	db.meta.newest = 0
	return err
}

// Journal returns where in meta.db the journal begins, and how many bytes its frames have.
func (db *DB) Journal() (offset int64, length int, err error) {
	err = db.meta.view(func(tx *bbolt.Tx) error {
		at, err := findJournal(tx)
		offset = at.offset
		return err
	})
	return offset, db.journal.end, err
}

// EncodeInline returns the record of an inline object.
func EncodeInline(info storage.Info, content []byte) []byte {
	return (&record{info: info, content: content}).encode()
}

// EncodeBlob returns the record of a large object with chunks at these offsets.
func EncodeBlob(info storage.Info, id uint64, offsets []int64) []byte {
	return (&record{info: info, blob: &blobRef{id: id, extents: offsets}}).encode()
}

// Allocated returns how many bytes a file takes on disk.
func Allocated(f *os.File) (int64, error) { return allocated(f) }

// ViewMeta runs fn in a read transaction of meta.db.
func (db *DB) ViewMeta(fn func(*bbolt.Tx) error) error { return db.meta.view(fn) }

// HoldCommits holds back the commits of meta.db until release is called. waiting returns the number
// of changes that wait.
func (db *DB) HoldCommits() (waiting func() int, release func()) {
	db.meta.commitMu.Lock()
	return func() int {
		n := 0
		for _, queue := range []*changes{&db.meta.queue, &db.journal.queue} {
			queue.mu.Lock()
			n += len(queue.waiting)
			queue.mu.Unlock()
		}
		return n
	}, db.meta.commitMu.Unlock
}

// Reap is what the reaper does with a blob that nothing reads.
func (db *DB) Reap(id uint64) { db.reaper.reap(id) }

// HasIntent reports whether an intent names the blob, so that the next start deletes it.
func (db *DB) HasIntent(id uint64) (has bool, err error) {
	err = db.meta.view(func(tx *bbolt.Tx) error {
		k, _ := tx.Bucket(bucketIntents).Cursor().Seek(blobKey(id))
		has = string(k) == string(blobKey(id))
		return nil
	})
	return has, err
}

// Outdate makes the store one of schema 1, as it is to be after a close: its objects have the keys
// of then.
func (db *DB) Outdate() error {
	return db.meta.update(0, func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSchema).Put(keyVersion, binary.AppendUvarint(nil, 1))
	})
}

// versionZip is the size of a zip of AddVersions.
const versionZip = 300 << 10

// AddVersions adds the objects of so many versions with keys of schema 1: an .info, a
// go.mod and a zip, whose blob is not there, see AddBlobs.
func (db *DB) AddVersions(n int) error {
	ids := rand.New(rand.NewPCG(1, 2)).Perm(n) // they were not fetched in the order of their keys
	for from := 0; from < n; from += 5000 {
		if err := db.meta.update(0, func(tx *bbolt.Tx) (err error) {
			for i := from; i < min(n, from+5000); i++ {
				err = errors.Join(err, addVersion(tx, i, uint64(ids[i]+1)))
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func addVersion(tx *bbolt.Tx, i int, id uint64) error {
	key := fmt.Sprintf("github.com/organisation-%d/module-%d/@v/v1.%d.0", i/1000, i/20%50, i%20)
	const database, hash = "sum.golang.org", "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	content := make([]byte, 400)
	rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}).Read(content)
	info := storage.Info{Key: key + ".info", Size: 150}
	mod := storage.Info{Key: key + ".mod", Size: 400, Hash: hash, Proof: database}
	zip := storage.Info{Key: key + ".zip", Size: versionZip, Hash: hash, Proof: database}
	blob := &blobRef{id: id, hash: [32]byte(content), extents: extents{int64(id) << 20, int64(id)<<20 + chunkSize}}
	return errors.Join(
		putObject(tx, info, EncodeInline(info, content[:150])), putObject(tx, mod, EncodeInline(mod, content)),
		putObject(tx, zip, (&record{info: zip, blob: blob}).encode()), putRef(tx, zip.Key, blob))
}

// AddBlobs adds the blobs of AddVersions with holes as their content, which take no disk space.
func (db *DB) AddBlobs(n int) error {
	blobs := db.blobs.file
	blobs.bolt.NoSync, blobs.bolt.AllocSize = true, 1<<30 // the content never reaches the disk
	defer func() { blobs.bolt.NoSync = false }()
	zeros := make([]byte, sumSize+chunkSize)
	size := int64(versionZip)
	chunks := [][]byte{zeros, zeros[:sumSize+chunkLen(size, 1)]}
	for from := 0; from < n; from += 200 {
		ids := uint64(min(200, n-from))
		if err := blobs.update(0, func(tx *bbolt.Tx) (err error) {
			for i := range ids {
				err = errors.Join(err, putSegment(uint64(from)+i+1, 0, 0, chunks)(tx))
			}
			return err
		}); err != nil {
			return err
		}
		for i := range ids {
			at, err := locate(blobs, wholeBlob(uint64(from)+i+1, size))
			if err != nil {
				return err
			}
			for chunk, offset := range at {
				const page = metaPageSize // of the file system
				first := (offset + page - 1) / page * page
				if err := punch(blobs.raw, first, (offset+int64(len(chunks[chunk])))/page*page-first); err != nil {
					return err
				}
			}
		}
	}
	return blobs.bolt.Sync()
}

// RekeyBy is Rekey with so many objects in one transaction.
func (o *Outdated) RekeyBy(ctx context.Context, steps int, progress func(Rekeyed)) error {
	return o.rekey(ctx, steps, progress)
}

// PutDamaged puts a record that does not match its checksum.
func (db *DB) PutDamaged(key string) error {
	return db.meta.update(0, func(tx *bbolt.Tx) error {
		return putObject(tx, storage.Info{Key: key}, []byte("this is no record, but long enough for one"))
	})
}

// OldSegments writes a blob of size bytes in the segments of earlier versions, which put a single
// last chunk into the segment before it, and returns its number.
func (db *DB) OldSegments(content []byte) (id uint64, err error) {
	if id, err = db.writer.intend(); err != nil {
		return 0, err
	}
	size := int64(len(content))
	for first, segment := 0, 0; first < chunkCount(size); segment++ {
		end := min(chunkCount(size), first+segmentChunks)
		if end == chunkCount(size)-1 {
			end++
		}
		var values [][]byte
		for chunk := first; chunk < end; chunk++ {
			values = append(values, append(make([]byte, sumSize), content[chunk*chunkSize:][:chunkLen(size, chunk)]...))
		}
		if _, err := db.blobs.write(id, segment, first, values); err != nil {
			return 0, err
		}
		first = end
	}
	return id, nil
}

// Locate returns where the chunks of a blob are.
func (db *DB) Locate(id uint64, size int64) ([]int64, error) {
	return locate(db.blobs.file, wholeBlob(id, size))
}

// BlobOf returns the number of the blob of an object, and where its record says that the chunks are.
func (db *DB) BlobOf(key string) (id uint64, chunks []int64, err error) {
	r, err := db.journal.lookup(key, false)
	if err != nil {
		return 0, nil, err
	}
	return r.blob.id, r.blob.extents, nil
}

// Segments returns how many values each segment of a blob has: its chunks, and perhaps one without
// meaning.
func (db *DB) Segments(id uint64) (chunks []int, err error) {
	err = db.blobs.file.view(func(tx *bbolt.Tx) error {
		for segment := range segmentKeys(tx, id) {
			n := 0
			if _, err := eachChunkOf(tx, id, segment, 0, math.MaxInt, func(int, []byte) error { n++; return nil }); err != nil {
				return err
			}
			chunks = append(chunks, n)
		}
		return nil
	})
	return chunks, err
}

// Written is what was written to meta.db since Open.
type Written struct {
	Commits, Pages           int64 // of bbolt
	Frames                   int64 // of the journal
	Freelist, Length, Unused int64 // bytes
	Depth                    int   // of the tree of objects
}

// WrittenToMeta merges the journal of a store that was empty when it was opened.
func (db *DB) WrittenToMeta() (w Written, err error) {
	if err := db.journal.settle(); err != nil {
		return w, err
	}
	stats := db.meta.bolt.Stats()
	w.Commits = int64(db.meta.newest)
	w.Pages = stats.TxStats.GetPageCount() + w.Commits
	w.Freelist = int64(stats.FreelistInuse)
	w.Length, w.Unused = db.meta.size()
	var durable dto.Metric // each frame counts as a commit, too
	if err := db.metrics.commitSeconds.WithLabelValues("meta").(prometheus.Metric).Write(&durable); err != nil {
		return w, err
	}
	const empty = 1 // number of the newest commit of an empty file
	w.Frames = int64(durable.GetHistogram().GetSampleCount()) - (w.Commits - empty)
	return w, db.meta.view(func(tx *bbolt.Tx) error {
		w.Depth = tx.Bucket(bucketObjects).Stats().Depth
		return nil
	})
}

// FrameHeader is the size of a frame without its objects.
const FrameHeader = frameHeader

// InFrame returns how many bytes of a frame an object takes.
func InFrame(o storage.Small) int {
	s := newSmall(o)
	return len(newFrame("", []entry{{s.info.Key, s.info.Size, s.value}})) - len(newFrame("", nil))
}

// SmallLimits gives the store a journal of some dozen objects, whose merges have some slices.
func (db *DB) SmallLimits() {
	db.meta.commitMu.Lock()
	defer db.meta.commitMu.Unlock()
	db.journal.limits = limits{minSize: 16 << 10, maxSize: 64 << 10, objects: 24, sliceObjects: 3, sliceBytes: 3 << 10, pace: 1}
}

// OnDurable calls fn after each commit and each frame that is durable in meta.db.
func (db *DB) OnDurable(fn func()) {
	db.meta.commitMu.Lock()
	defer db.meta.commitMu.Unlock()
	db.meta.commits = observer{db.meta.commits, fn}
}

type observer struct {
	prometheus.Observer
	fn func()
}

func (o observer) Observe(seconds float64) {
	o.Observer.Observe(seconds)
	o.fn()
}

// Merging returns how many objects of the journal are in the tree.
func (db *DB) Merging() int {
	db.meta.commitMu.Lock()
	defer db.meta.commitMu.Unlock()
	return len(db.journal.merged)
}

// OnWrite makes each write of bbolt to meta.db go to fn, which calls write for it.
func (db *DB) OnWrite(fn func(b []byte, offset int64, write func(b []byte) error) error) {
	db.meta.commitMu.Lock()
	defer db.meta.commitMu.Unlock()
	hook := reflect.ValueOf(db.meta.bolt).Elem().FieldByName("ops").FieldByName("writeAt") // for bbolt's own tests
	raw := db.meta.raw
	*(*func([]byte, int64) (int, error))(hook.Addr().UnsafePointer()) = func(b []byte, offset int64) (int, error) {
		return len(b), fn(b, offset, func(b []byte) error { _, err := raw.WriteAt(b, offset); return err })
	}
}

// FailFrames makes each write of a frame fail until the function that it returns is called.
func (db *DB) FailFrames() (end func(), err error) {
	readOnly, err := os.Open(db.meta.path)
	if err != nil {
		return nil, err
	}
	swap := func(to *os.File) (from *os.File) {
		db.meta.commitMu.Lock()
		defer db.meta.commitMu.Unlock()
		from, db.meta.raw = db.meta.raw, to
		return from
	}
	raw := swap(readOnly)
	return func() { swap(raw).Close() }, nil
}
