package bolt

import (
	"context"
	"os"
	"time"

	"go.etcd.io/bbolt"
)

// holes makes holes of the pages of deleted blobs, so that a deletion gives disk space back at once: bbolt
// never shortens a file, and uses a free page again only for a value that fits into the free pages beside it.
//
// A page that a commit has freed is one that bbolt overwrites with any later commit, so a hole in it loses
// nothing that a crash does not lose already. Compact checks the whole file first, because it believes a list of
// free pages; here the pages are those that the deleted buckets have occupied.
type holes struct {
	copying turns // a copy of the file may still read pages that are free
}

// holeWait is how long a deletion waits for readers that may read freed pages. They take less than a millisecond,
// unless the whole store is verified; then the pages stay allocated until Compact.
const holeWait = time.Second

// newHoles returns nil if holes are not wanted. The error is errors.ErrUnsupported if dir is on a file system
// without holes.
func newHoles(dir string, wanted bool, copying turns) (*holes, error) {
	if !wanted {
		return nil, nil
	}
	f, err := os.CreateTemp(dir, blobsName+unfinished)
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(blobsPageSize); err != nil {
		return nil, err
	}
	return &holes{copying}, punch(f, 0, blobsPageSize)
}

// deleteBlob deletes a blob of a file.
func (h *holes) deleteBlob(blobs *file, id uint64) error {
	if h == nil {
		return deleteBlob(blobs, id, update)
	}
	select {
	case h.copying <- struct{}{}:
		defer h.copying.unlock()
		return deleteBlob(blobs, id, punchSegments)
	default: // a copy reads the file; what stays allocated is for Compact
		return deleteBlob(blobs, id, update)
	}
}

// update deletes segments in a commit with other changes.
func update(segments [][]byte, f *file) error { return f.update(0, removeSegments(segments)) }

// punchSegments deletes segments and makes holes of their pages before any other commit could use them again.
func punchSegments(segments [][]byte, f *file) error {
	f.commitMu.Lock()
	defer f.commitMu.Unlock()
	var pages [][2]int64
	err := f.view(func(tx *bbolt.Tx) (err error) {
		pages, err = pagesOf(tx, segments)
		return err
	})
	if err == nil {
		err = f.commit(removeSegments(segments))
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), holeWait)
	defer cancel()
	if f.readers.waitForEarlier(ctx) != nil {
		return nil
	}
	for _, run := range pages {
		if err := punch(f.raw, run[0], run[1]-run[0]); err != nil {
			return err
		}
	}
	return nil
}

// pagesOf returns where in the file the pages with the values of segments begin and end. A value begins and ends
// in pages of its leaf, and a leaf has nothing but values of one segment.
func pagesOf(tx *bbolt.Tx, segments [][]byte) (runs [][2]int64, err error) {
	page := int64(tx.DB().Info().PageSize)
	for _, key := range segments {
		bucket := tx.Bucket(bucketBlobs).Bucket(key)
		if bucket == nil || bucket.Root() == 0 { // a small bucket is in the page of its parent
			continue
		}
		cursor := bucket.Cursor()
		for k, value := cursor.First(); k != nil; k, value = cursor.Next() {
			offset, err := offsetOf(tx, value)
			if err != nil {
				return nil, err
			}
			first, end := offset/page*page, (offset+int64(len(value))+page-1)/page*page
			if last := len(runs) - 1; last >= 0 && runs[last][1] >= first && runs[last][0] <= first {
				runs[last][1] = max(runs[last][1], end)
				continue
			}
			runs = append(runs, [2]int64{first, end})
		}
	}
	return runs, nil
}
