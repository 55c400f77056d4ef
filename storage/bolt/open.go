package bolt

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// Names of the two files in the directory of a store.
const (
	metaName  = "meta.db"
	blobsName = "blobs.db"
)

// unfinished follows the name of a file that is not complete yet, with a random text
// for the star.
const unfinished = ".*.new"

const (
	// magic is the value that tells our bbolt files from those of others.
	magic = "assay storage"

	// schemaVersion is the version of what is inside of the files. A store
	// with a higher one is refused, a lower one would be upgraded.
	schemaVersion = 1

	// metaPageSize is what most machines have, and given so that a store can
	// move between machines that have different ones.
	metaPageSize = 4 << 10

	// blobsPageSize: bbolt writes the list of free pages, 8 bytes each, with
	// every commit. With pages four times as large it is a quarter as long:
	// 512 KiB for each GiB that was deleted and not yet used again.
	blobsPageSize = 16 << 10
)

// Buckets and keys. Both files have bucketSchema.
var (
	bucketSchema = []byte("schema")
	keyMagic     = []byte("magic")
	keyVersion   = []byte("version")
	keyPair      = []byte("pair")   // the same random value in both files
	keyJoined    = []byte("joined") // blobs.db: there was a whole meta.db, so it is a loss if there is none
	keyTotals    = []byte("totals") // meta.db: a totals value

	bucketObjects = []byte("objects") // meta.db: key → object record
	bucketRefs    = []byte("refs")    // meta.db: blob id, key → nothing
	bucketHashes  = []byte("hashes")  // meta.db: SHA-256 → id of the blob that new objects share
	bucketIntents = []byte("intents") // meta.db: blob id → nothing, while no object has the blob
	bucketRecords = []byte("records") // meta.db: name → bucket with the value of a mutable record

	bucketBlobs = []byte("blobs") // blobs.db: blob id, segment → bucket of chunks
)

// Options are the options of Open. Nil and zero values mean the defaults.
type Options struct {
	// Logger gets what cannot be returned to a caller, such as a failed
	// clean-up. Nil discards.
	Logger *slog.Logger

	// LockTimeout is how long Open waits for another process to let go of the
	// store. Zero means one second.
	LockTimeout time.Duration

	// Readers is what open objects take their memory from: each some 16 KiB while
	// it is open, and all that are at the same chunk of the same content 256 KiB
	// together. If half of it is used for chunks, objects are read in smaller
	// pieces; if it is used up, DB.Open returns memory.ErrFull. Nil is no bound.
	Readers *memory.Budget

	// Writers is what Create takes WriterMemory from for each large object, and
	// waits for it. Nil is no bound.
	Writers *memory.Budget

	// Existing has Open return fs.ErrNotExist instead of making an empty store.
	Existing bool
}

// Open opens the store in the directory dir and makes an empty one if there is
// none. Only one process can have a store open, and it must not be on a network
// file system.
//
// The errors tell ErrInUse, ErrForeign, ErrNewer and ErrDamaged apart; whatever
// the error, nothing in the directory has changed but what an empty store needs.
func Open(dir string, opts *Options) (*DB, error) {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = time.Second
	}
	db, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return db, nil
}

// open opens blobs.db first: who holds its lock is alone with both files.
func open(dir string, o Options) (*DB, error) {
	if o.Existing {
		_, metaErr := os.Stat(filepath.Join(dir, metaName))
		_, blobsErr := os.Stat(filepath.Join(dir, blobsName))
		if errors.Is(metaErr, fs.ErrNotExist) && errors.Is(blobsErr, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is none: %w", fs.ErrNotExist)
		}
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	blobs, err := openFile(filepath.Join(dir, blobsName), blobsPageSize, o)
	if err != nil {
		return nil, err
	}
	meta, err := openFile(filepath.Join(dir, metaName), metaPageSize, o)
	if err != nil {
		return nil, errors.Join(err, blobs.close())
	}
	db, err := newDB(dir, meta, blobs, o)
	if err != nil {
		return nil, errors.Join(err, meta.close(), blobs.close())
	}
	db.removeUnfinished()
	return db, nil
}

// removeUnfinished removes the files that createFile left behind when its process was
// killed. It runs while we hold both files: another process that makes such a file now
// has lost the race for the store, and finds ours in place of its own.
func (db *DB) removeUnfinished() {
	entries, err := os.ReadDir(db.dir)
	for _, e := range entries {
		for _, name := range []string{metaName, blobsName} {
			if left, _ := filepath.Match(name+unfinished, e.Name()); left {
				err = errors.Join(err, os.Remove(filepath.Join(db.dir, e.Name())))
			}
		}
	}
	if err != nil {
		db.log.Warn("files left by an interrupted start cannot be removed", "err", err)
	}
}

func makeDir(dir string) error {
	err := makeDirs(filepath.Clean(dir))
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: name a directory, not a file", err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: make it writable for user %d, or name another directory", err, os.Getuid())
	}
	return err
}

// makeDirs is os.MkdirAll, and the names it makes are durable.
func makeDirs(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return os.MkdirAll(dir, 0o700) // an error if it is a file
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := syncDir(parent); !errors.Is(err, fs.ErrPermission) { // we may write to it, and not read it
		return err
	}
	return nil
}

// openFile opens one file of the store. If there is none, an empty one appears
// under its name complete or not at all.
func openFile(path string, pageSize int, o Options) (*file, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createFile(path, pageSize); err != nil {
			return nil, explainOpen(path, err)
		}
	}
	if err := sniff(path, pageSize); err != nil {
		return nil, explainOpen(path, err)
	}
	f, err := mapFile(path, pageSize, o.LockTimeout)
	if err != nil {
		return nil, explainOpen(path, err)
	}
	return f, nil
}

// createFile makes an empty bbolt file under another name first: bbolt's own
// first write is the only one of its writes that a power failure can leave
// half done.
func createFile(path string, pageSize int) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+unfinished)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return err
	}
	b, err := bbolt.Open(tmp.Name(), 0o600, &bbolt.Options{PageSize: pageSize, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	// A link, unlike a rename, leaves alone what another process put there
	// meanwhile. Some file systems have no links.
	if err := os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		if _, err := os.Stat(path); err == nil {
			return nil // the process that was faster has removed ours, see removeUnfinished
		}
		if err := os.Rename(tmp.Name(), path); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there, and need not be
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sniff looks for the mark of bbolt before bbolt touches the file. An empty
// file is fine: somebody made it for us.
func sniff(path string, pageSize int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return nil
	}
	// The mark is 16 bytes into a page, and there is one on each of the first
	// two. Either can be damaged, which is for bbolt to find out.
	boltMark := binary.NativeEndian.AppendUint32(nil, 0xED0CDAED)
	for _, page := range []int64{0, metaPageSize, blobsPageSize} {
		var mark [4]byte
		if _, err := f.ReadAt(mark[:], page+16); err != nil && err != io.EOF {
			return err
		}
		if bytes.Equal(mark[:], boltMark) {
			if info.Size() < 2*int64(pageSize) {
				return fmt.Errorf("%w: it was cut off", storage.ErrDamaged)
			}
			return nil
		}
	}
	return storage.ErrForeign
}

// mapFile lets bbolt open and map the file.
func mapFile(path string, pageSize int, timeout time.Duration) (f *file, err error) {
	f = &file{path: path}
	options := &bbolt.Options{
		Timeout:      timeout,
		PageSize:     pageSize,
		FreelistType: bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			raw, err := os.OpenFile(name, flag, mode)
			f.raw = raw
			return raw, err
		},
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			f.raw.Close() // the lock goes with it
			err = fmt.Errorf("%s: %w", panicText(r), storage.ErrDamaged)
		}
	}()
	for _, options.InitialMmapSize = range initialMaps() {
		f.bolt, err = bbolt.Open(path, 0o600, options)
		if !errors.Is(err, syscall.ENOMEM) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	f.pageSize = f.bolt.Info().PageSize
	err = f.bolt.View(func(tx *bbolt.Tx) error {
		f.newest = tx.ID()
		return nil
	})
	return f, err
}

// initialMaps are the sizes of the memory map to try. When bbolt has to map a
// file anew, because it outgrew its map, all reads wait for the slowest reader.
// Address space costs nothing on 64 bits, except where it is limited (ulimit
// -v, or kernels with 39 bits of it). On Windows the file would really be made
// that large.
func initialMaps() []int {
	if runtime.GOOS == "windows" || math.MaxInt == math.MaxInt32 {
		return []int{0}
	}
	return []int{1 << 30 << 10, 64 << 30, 1 << 30, 0}
}

// explainOpen turns an error of opening path into one that says what to do.
func explainOpen(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s: %w; stop that process, or give this one a directory of its own", path, storage.ErrInUse)
	case errors.Is(err, storage.ErrForeign), errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%s: %w; move the file away, or name another directory", path, storage.ErrForeign)
	case errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, storage.ErrDamaged):
		return fmt.Errorf("%s: %w (%v); restore meta.db and blobs.db from a backup, or move both away and start with an empty store", path, storage.ErrDamaged, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: make the directory and its files writable for user %d, or name another directory", err, os.Getuid())
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: free some space, or name a directory on another disk", err)
	}
	return err
}

// readSchema checks that the file is ours. It returns the value both files of a
// store have in common, or nil if the file is a new one.
func (f *file) readSchema() (pair []byte, err error) {
	err = f.view(func(tx *bbolt.Tx) error {
		if first, _ := tx.Cursor().First(); first == nil {
			return nil
		}
		schema := tx.Bucket(bucketSchema)
		if schema == nil || string(schema.Get(keyMagic)) != magic {
			return storage.ErrForeign
		}
		version, n := binary.Uvarint(schema.Get(keyVersion))
		if n <= 0 {
			return storage.ErrDamaged
		}
		if version > schemaVersion {
			return fmt.Errorf("%s: %w: its schema is %d, this program knows %d; use the newer program",
				f.path, storage.ErrNewer, version, schemaVersion)
		}
		pair = bytes.Clone(schema.Get(keyPair))
		return nil
	})
	if err != nil && !errors.Is(err, storage.ErrNewer) {
		err = explainOpen(f.path, err)
	}
	return pair, err
}

// writeSchema makes a new file ours.
func (f *file) writeSchema(pair []byte, buckets ...[]byte) error {
	return f.update(0, func(tx *bbolt.Tx) error {
		for _, name := range append(buckets, bucketSchema) {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		schema := tx.Bucket(bucketSchema)
		return errors.Join(
			schema.Put(keyMagic, []byte(magic)),
			schema.Put(keyVersion, binary.AppendUvarint(nil, schemaVersion)),
			schema.Put(keyPair, pair))
	})
}

// joined says whether blobs.db, which f is, has the note of join.
func (f *file) joined() (joined bool, err error) {
	err = f.view(func(tx *bbolt.Tx) error {
		schema := tx.Bucket(bucketSchema)
		joined = schema != nil && schema.Get(keyJoined) != nil
		return nil
	})
	return joined, err
}

// join notes in blobs.db that there is a whole meta.db.
func (f *file) join() error {
	if joined, err := f.joined(); err != nil || joined {
		return err
	}
	return f.update(0, func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSchema).Put(keyJoined, []byte("yes"))
	})
}

// matchFiles checks that both files are of the same store, and makes them a
// store if they are new. It is the one place that decides what a missing file
// means: blobs.db becomes ours first, so a new meta.db beside a blobs.db that
// never had one is an interrupted first start, and anything else a loss.
func matchFiles(meta, blobs *file) error {
	metaPair, err := meta.readSchema()
	if err != nil {
		return err
	}
	blobsPair, err := blobs.readSchema()
	if err != nil {
		return err
	}
	switch {
	case metaPair != nil && blobsPair == nil:
		return fmt.Errorf("%s: %w: its %s is missing or empty; put it back, or move %s away too to start with an empty store",
			meta.path, storage.ErrDamaged, blobsName, metaName)
	case blobsPair == nil:
		blobsPair = []byte(rand.Text())
		if err := blobs.writeSchema(blobsPair, bucketBlobs); err != nil {
			return err
		}
	}
	if metaPair == nil {
		joined, err := blobs.joined()
		last, err2 := blobs.lastBlob()
		if err := errors.Join(err, err2); err != nil || joined || last > 0 {
			return errors.Join(err, fmt.Errorf("%s: %w: its %s is missing or empty; put it back, or move %s away too to start with an empty store",
				blobs.path, storage.ErrDamaged, metaName, blobsName))
		}
		return meta.writeSchema(blobsPair, bucketObjects, bucketRefs, bucketHashes, bucketIntents, bucketRecords)
	}
	if !bytes.Equal(metaPair, blobsPair) {
		return fmt.Errorf("%s and %s are of two different stores: %w; put the right one back", metaName, blobsName, storage.ErrDamaged)
	}
	return nil
}
