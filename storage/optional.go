package storage

import (
	"context"
	"io"

	"github.com/prometheus/client_golang/prometheus"
)

// What only some engines can do. A caller asks a Store for it by a type assertion.

// Verifier is a Store that can check itself.
type Verifier interface {
	// Verify reads everything in the store and checks it. An error means that it
	// could not go on; damage is no error. Readers and writers go on beside it.
	Verify(ctx context.Context, o VerifyOptions) (Verified, error)
}

// Sizer is a Store that knows how much it holds.
type Sizer interface {
	// Stats returns how much the store holds, without walking it.
	Stats(ctx context.Context) (Stats, error)
}

// Measured is a Store that has metrics.
type Measured interface {
	// Metrics returns the collectors of the store, to be registered once.
	Metrics() []prometheus.Collector
}

// Compactor is a Store that can give free space back to the file system.
type Compactor interface {
	// Compact gives back what is free, and returns how many bytes that was. Readers go
	// on beside it, writers wait.
	Compact(ctx context.Context) (freed int64, err error)
}

// Archiver is a Store that can copy itself while it is in use.
type Archiver interface {
	// Backup calls write for each file of a copy of the store, in turn. Together they
	// are what the store was at one moment. A call may take any time; what is deleted
	// meanwhile takes its space until then.
	Backup(ctx context.Context, write func(BackupFile) error) error
}

// BackupFile is a file of the copy that Archiver.Backup makes of a store.
type BackupFile struct {
	Name    string
	Size    int64
	Content io.WriterTo // to be used once, before write returns
}

// Damage is one thing that Verify found.
type Damage struct {
	Key      string // of an object, "record " and the name of a mutable record, or "" if it is about neither
	Err      error  // what is wrong
	Repaired bool   // the object was dropped, or what is wrong put right
}

// Verified is how much Verify has walked, and what came of it.
type Verified struct {
	Objects  int64 // objects whose record and content were checked
	Bytes    int64 // of their content, what several share counted once
	Records  int64 // mutable records
	Damaged  int64 // Damages found
	Repaired int64 // of those
}

// VerifyOptions are the options of Verify. All may be zero.
type VerifyOptions struct {
	// Repair drops what is damaged, so that it is fetched again, and puts right
	// what can be: references, and blobs that are not referenced.
	Repair bool

	// Damage is told each Damage when it is found.
	Damage func(Damage)

	// Progress is told every now and then how far Verify is.
	Progress func(Verified)
}

// Stats is how much a store holds.
type Stats struct {
	Objects int64 // number of objects
	Bytes   int64 // sum of their sizes, each counted though its blob be shared

	FileBytes int64 // size of the two files
	FreeBytes int64 // part of them that is free for the next objects
	Orphans   int64 // blobs that wait to be deleted
}
