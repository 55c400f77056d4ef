package bolt

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/storage"
)

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

// makeDirs is os.MkdirAll, and makes the new names durable.
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
	if err := durable.SyncDir(parent); !errors.Is(err, fs.ErrPermission) { // the directory may be writable and not readable
		return err
	}
	return nil
}

// openFile opens one file of the store. If it does not exist, an empty one appears under its name
// complete or not at all, unless it is opened read-only.
func openFile(path string, pageSize int, how opening) (*file, error) {
	info, err := os.Stat(path)
	if how.readOnly && (errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0) {
		return nil, explainOpen(path, fmt.Errorf("it is missing or empty: %w", storage.ErrDamaged))
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err := createFile(path, pageSize); err != nil {
			return nil, explainOpen(path, err)
		}
	}
	if err := sniff(path, pageSize, how); err != nil {
		return nil, explainOpen(path, err)
	}
	if err := checkMappable(path); err != nil {
		return nil, err
	}
	f, err := mapFile(path, pageSize, how)
	if err != nil {
		return nil, explainOpen(path, err)
	}
	return f, nil
}

// createFile creates an empty bbolt file under another name first: the first write of bbolt is the
// only one that a power failure can leave incomplete.
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
	// Unlike a rename, a link does not replace a file that another process has created meanwhile.
	// Some file systems have no links.
	if err := os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		if _, err := os.Stat(path); err == nil {
			return nil // the faster process has removed our file, see removeUnfinished
		}
		if err := os.Rename(tmp.Name(), path); err != nil {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(path))
}

// sniff checks bbolt's mark before bbolt uses the file. An empty file is accepted: it was created
// for us.
func sniff(path string, pageSize int, how opening) error {
	flag := os.O_RDWR
	if how.readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flag, 0)
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
	// The mark is 16 bytes into each of the first two pages. One of them may be damaged; bbolt
	// handles that.
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

// mapFile makes bbolt open and map the file.
func mapFile(path string, pageSize int, how opening) (f *file, err error) {
	f = &file{path: path, opening: how, readers: readers{open: map[int]int{}}}
	options := &bbolt.Options{
		Timeout:      how.lockTimeout,
		ReadOnly:     how.readOnly,
		PageSize:     pageSize,
		FreelistType: bbolt.FreelistMapType,
		MaxSize:      int(how.limit),
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			raw, err := os.OpenFile(name, flag, mode)
			f.raw = raw
			return raw, err
		},
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			f.raw.Close() // releases the lock, too
			err = fmt.Errorf("%s: %w", panicText(r), storage.ErrDamaged)
		}
	}()
	for _, size := range initialMaps(how.limit) {
		options.InitialMmapSize = int(size)
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
		return checkTrees(tx, f.raw, !metaPagesRight(f.raw, int64(f.pageSize)))
	})
	if err != nil {
		_ = f.bolt.Close()
		return nil, err
	}
	return f, nil
}

// initialMaps returns the sizes of the memory map to try. When a file outgrows its map, bbolt maps
// it again, and all reads wait for the slowest reader. Address space costs nothing on 64 bits,
// except where it is limited (ulimit -v, or kernels with 39 bits of it). On 32 bits it is short, so the
// map is as large as it will ever be: bbolt cannot continue after a map that fails. On Windows the file
// would really get that size.
func initialMaps(limit int64) []int64 {
	switch {
	case runtime.GOOS == "windows":
		return []int64{0}
	case is32Bit:
		return []int64{limit}
	}
	return []int64{1 << 30 << 10, 64 << 30, 1 << 30, 0}
}

// explainOpen turns an error of opening path into one that tells the administrator how to resolve
// it.
func explainOpen(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s: %w; stop that process", path, storage.ErrInUse)
	case errors.Is(err, storage.ErrForeign), errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%s: %w; move the file away, or name another directory", path, storage.ErrForeign)
	case errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, storage.ErrDamaged):
		return fmt.Errorf("%s: %w (%v); restore meta.db and blobs.db from a backup, or move both away and start with an empty store", path, storage.ErrDamaged, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: make the directory and its files writable for user %d, or name another directory", err, os.Getuid())
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: free some space, or name a directory on another disk", err)
	case errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("%s: %w: the process has too little address space for the file; lower the limit of the store, raise ulimit -v, or use a program for 64 bits", path, err)
	}
	return err
}

// readSchema checks that the file is a file of this program. It returns the value that both files
// of a store have in common, or nil if the file is new.
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

// writeSchema makes a new file a file of this program.
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

// joined reports whether blobs.db, which f is, has the mark of join.
func (f *file) joined() (joined bool, err error) {
	err = f.view(func(tx *bbolt.Tx) error {
		schema := tx.Bucket(bucketSchema)
		joined = schema != nil && schema.Get(keyJoined) != nil
		return nil
	})
	return joined, err
}

// join marks in blobs.db that a complete meta.db exists.
func (f *file) join() error {
	if joined, err := f.joined(); err != nil || joined {
		return err
	}
	return f.update(0, func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSchema).Put(keyJoined, []byte("yes"))
	})
}

// matchFiles checks that both files belong to the same store, and makes them a store if they are
// new. Only this function decides what a missing file means: blobs.db gets its schema first, so a
// new meta.db beside a blobs.db without the mark is an interrupted first start, and everything else
// is a loss.
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
		return meta.writeSchema(blobsPair, bucketObjects, bucketRefs, bucketHashes, bucketIntents, bucketStates)
	}
	if !bytes.Equal(metaPair, blobsPair) {
		return fmt.Errorf("%s and %s are of two different stores: %w; put the right one back", metaName, blobsName, storage.ErrDamaged)
	}
	return nil
}
