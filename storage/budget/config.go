package budget

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// Local is an engine on the local disk.
type Local interface {
	storage.Store
	storage.Archiver
	storage.Compactor
	storage.Enumerator
	storage.Measured
	storage.Occupant
	storage.Sizer
	storage.Verifier
}

// Config has what a Store needs. Dir is required.
type Config struct {
	// Limit is how many bytes Dir may take on disk, with everything in it. It is exceeded by at most one object
	// that is in flight. 0 means that there is no limit: objects are evicted because of their age alone.
	Limit int64

	// Dir is the directory in which, or in a directory of which, the files of the engine are. Other files in it
	// count, too; they are measured every few seconds.
	Dir string

	// Keep returns why an object must not be evicted, in words for an administrator, or "" if it may be. It is
	// asked when an object is stored, and again right before it is evicted. Nil: everything may be evicted.
	Keep func(ctx context.Context, info storage.Info) (reason string, err error)

	// MaxAge is how long after its last use an object is evicted even if there is room. 0 means never.
	MaxAge time.Duration

	Logger *slog.Logger // nil: discard
}

// most returns the limit, as a number also if there is none.
func (c Config) most() int64 {
	if c.Limit == 0 {
		return math.MaxInt64 / 2
	}
	return c.Limit
}

// Asker finds out whether an object that is about to be evicted can be fetched again. The error says that no
// source answers: then nothing is evicted.
type Asker func(ctx context.Context, info storage.Info) (obtainable bool, err error)

// JournalFor returns the size of a journal of small objects, in bytes, that suits a limit.
func JournalFor(limit int64) int64 { return min(max(limit/128, 192<<10), 11<<20) }

// Report says how the limit is used.
type Report struct {
	Limit     int64            `json:"limit"`     // 0: there is none
	Taken     int64            `json:"taken"`     // bytes on disk, of everything
	Evictable int64            `json:"evictable"` // bytes of objects that may be evicted
	Objects   int64            `json:"objects"`   // number of these
	Kept      map[string]int64 `json:"kept"`      // bytes of others, by the reason
}
