package bolt

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"

	"github.com/assay-proxy/assay/storage"
)

const is32Bit = math.MaxInt == math.MaxInt32

const (
	// LeastLimit is the smallest Options.FileLimit.
	LeastLimit = 2 * reserve

	// reserve is the part of a limited file that no new object takes: what makes room needs room itself.
	// A deletion may have to merge a journal of 8 MiB first, and bbolt lets a file grow by 16 MiB.
	reserve = 64 << 20

	// largest32 is the largest Options.FileLimit on 32 bits, and the default there. bbolt could map 2 GiB,
	// and nothing in between; but both files are mapped, into an address space of about 3 GiB that the
	// program itself needs, too.
	largest32 = 1 << 30
)

// fileLimit returns the limit that limit, an Options.FileLimit, means on this system.
func fileLimit(limit int64) (int64, error) {
	switch {
	case limit == 0 && is32Bit:
		return largest32, nil
	case limit != 0 && limit < LeastLimit:
		return 0, fmt.Errorf("a limit of %d MiB for the files of a store is too small; it must be at least %d, or 0 for the default", limit>>20, LeastLimit>>20)
	case limit > largest32 && is32Bit:
		return 0, fmt.Errorf("a limit of %d MiB for the files of a store is too large for a program of 32 bits; it must be at most %d", limit>>20, largest32>>20)
	}
	return limit, nil
}

// room returns how much of a file with a limit objects may use; 0 if there is no limit.
func room(limit int64) int64 { return max(0, limit-reserve) }

// checkMappable returns an error if the file is too large for this program to map it.
func checkMappable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if is32Bit && info.Size() > largest32 {
		return fmt.Errorf("%s has %d MiB; a program of 32 bits can use at most %d: use a program for 64 bits, or start with an empty store in another directory",
			path, info.Size()>>20, largest32>>20)
	}
	return nil
}

// limitError is the error of a change of n bytes for which the file is too large.
func limitError(path string, n int) error {
	err := fmt.Errorf("write %s: %w: the file has reached the limit of the store; purge modules or raise the limit; stored objects stay readable",
		path, syscall.ENOSPC)
	if n > largestSmall {
		return err // another object may fit
	}
	return unwritable{err, storage.ErrUnwritable}
}

// noLarge makes the error of writing a part of a large object storage.ErrNoLarge, too, if the file is too large
// for it: the parts of others are as large.
func noLarge(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return unwritable{err, storage.ErrNoLarge}
	}
	return err
}

// largestSmall is about how many bytes of a file a small object takes, with what belongs to it.
const largestSmall = 2 * storage.MaxSmall

// unwritable is an error that also is one of package storage, which says what cannot be stored now.
type unwritable struct {
	error
	what error
}

func (e unwritable) Unwrap() error { return e.error }

func (e unwritable) Is(target error) bool { return target == e.what }
