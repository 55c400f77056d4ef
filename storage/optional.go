package storage

import (
	"context"
	"io"
	"iter"

	"github.com/prometheus/client_golang/prometheus"
)

// Capabilities of only some engines. A caller checks with a type assertion whether a Store has
// them.

// Verifier is a Store that can check itself.
type Verifier interface {
	// Verify reads everything in the store and checks it. An error means that Verify could not
	// continue; damage is not an error. Reads and writes are possible meanwhile.
	Verify(ctx context.Context, o VerifyOptions) (Verified, error)
}

// Sizer is a Store that knows the size of its contents.
type Sizer interface {
	// Stats returns the size of the store's contents, without walking it.
	Stats(ctx context.Context) (Stats, error)
}

// Warmer is a Store whose first read of an object may take longer than the next ones.
type Warmer interface {
	// Warm is Stat, and begins to make the object at key fast to read, if it is not, and if take, which is called with
	// its size then, returns true. Warm does not wait until the whole content is there.
	Warm(ctx context.Context, key string, take func(size int64) bool) (Info, error)
}

// Measured is a Store that has metrics.
type Measured interface {
	// Metrics returns the collectors of the store, to be registered once.
	Metrics() []prometheus.Collector
}

// Enumerator is a Store that can list its states.
type Enumerator interface {
	// States yields the names of the states that begin with prefix, in lexical order. After an error it ends.
	States(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// Compactor is a Store that can return free space to the file system.
type Compactor interface {
	// Compact returns free space to the file system, and returns its number of bytes. Reads are
	// possible meanwhile, writes wait.
	Compact(ctx context.Context) (freed int64, err error)
}

// Archiver is a Store that can copy itself while it is in use.
type Archiver interface {
	// Backup calls write for each file of a copy of the store, one after the other. Together they
	// are the state of the store at one moment. A call may take any time; the space of objects that
	// are deleted meanwhile is free only after it.
	Backup(ctx context.Context, write func(BackupFile) error) error
}

// Occupant is a Store on the local disk that knows how much of it is taken.
type Occupant interface {
	// DiskUse returns how much of the disk the store takes now. It costs some system calls.
	DiskUse() (DiskUse, error)

	// Deleted waits until the space of what was deleted is free, except that of objects that are open.
	Deleted(ctx context.Context) error
}

// DiskUse is how much of the disk a store takes.
type DiskUse struct {
	Files     []string // the paths of its files
	Allocated int64    // bytes that they take on disk
	Large     int64    // part of them with the contents of large objects
	Reusable  int64    // bytes that are allocated for small objects, and are free for others
	Dead      int64    // bytes that are allocated for large objects and not used; Compact gives them back
	Arriving  int64    // bytes of drafts that are in memory, and have not taken disk space yet
}

// BackupFile is a file of the copy that Archiver.Backup makes of a store.
type BackupFile struct {
	Name    string
	Size    int64
	Content io.WriterTo // to be used once, before write returns
}

// Damage is one error that Verify found.
type Damage struct {
	Key      string // of an object, "state " and the name of a state, or ""
	Err      error  // the error
	Repaired bool   // the object was deleted, or the error corrected
}

// Verified counts what Verify has checked, and the results.
type Verified struct {
	Objects  int64 // objects whose record and content were checked
	Bytes    int64 // of their content; shared content counts once
	States   int64 // small mutable values
	Damaged  int64 // Damages found
	Repaired int64 // number of repaired ones
}

// VerifyOptions are the options of Verify. All may be zero.
type VerifyOptions struct {
	// Repair deletes damaged objects, so that they are fetched again, and corrects errors that can
	// be corrected: references, and blobs that are not referenced.
	Repair bool

	// Damage is called with each Damage when it is found.
	Damage func(Damage)

	// Progress is called at intervals with the counts so far.
	Progress func(Verified)
}

// Stats is the size of a store's contents.
type Stats struct {
	Objects int64 // number of objects
	Bytes   int64 // sum of their sizes, also of objects that share a blob

	FileBytes int64 // size of the two files
	FreeBytes int64 // part of them that is free for new objects
	Orphans   int64 // blobs that wait to be deleted
}
