package bolt

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"os"

	"go.etcd.io/bbolt"

	"github.com/assay-proxy/assay/storage"
)

// A page of bbolt, in the byte order of the machine, begins with its own number (8 bytes), its type (2), the
// number of its elements (2), and how many pages after it belong to it (4). An element of a branch ends with the
// number of its child. One of a leaf has its type, where its key begins, counted from the element, the length
// of the key, and that of the value that follows it (4 bytes each). All elements are in the first page.
const (
	headerSize  = 16
	elementSize = 16

	branchPage    = 1
	leafPage      = 2
	bucketElement = 1

	// A meta page has 56 bytes behind the header, and their FNV-1a.
	metaSize = 56
)

// errCircle is the error of a page that is reached twice.
var errCircle = fmt.Errorf("two pages refer to it: %w", storage.ErrDamaged)

// trees checks that each page of a file is reached once from its root. bbolt follows pointers by recursion:
// pages in a circle use up the stack, which ends the process. A commit never leaves them, but a bit that
// changes on the disk may, and so may a damaged meta page: bbolt uses the other one then, whose pages may be
// overwritten.
type trees struct {
	file     *os.File
	pageSize int64
	pages    uint64
	seen     []uint64 // one bit for each page
	leaves   bool     // whether all leaves are read
}

// checkTrees checks the trees in the file as tx sees them. Without leaves it reads about one page of a hundred, and believes
// that all leaves of a bucket are equally deep, as bbolt makes them. A page that cannot be read is left
// to bbolt, which returns an error to the caller that needs it.
func checkTrees(tx *bbolt.Tx, file *os.File, leaves bool) error {
	t := trees{file: file, pageSize: int64(tx.DB().Info().PageSize), leaves: leaves}
	t.pages = uint64(tx.Size() / t.pageSize)
	t.seen = make([]uint64, t.pages/64+1)
	root := uint64(tx.Cursor().Bucket().Root())
	return t.walk(root, t.depth(root), true) // its leaves have the roots of the buckets
}

// walk visits a page and what is below it: depth levels of branches, and leaves.
func (t *trees) walk(id uint64, depth int, leaves bool) error {
	if id >= t.pages {
		return nil
	}
	if t.seen[id/64]&(1<<(id%64)) != 0 {
		return fmt.Errorf("page %d: %w", id, errCircle)
	}
	t.seen[id/64] |= 1 << (id % 64)
	if depth == 0 && !leaves {
		return nil
	}
	p := t.read(id)
	for i := range p.count() {
		var err error
		if p.kind() == branchPage {
			err = t.walk(p.child(i), max(depth-1, 0), leaves)
		} else if root := p.bucket(i); root != 0 {
			err = t.walk(root, t.depth(root), t.leaves)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// depth returns how many branches are above the first leaf below a page. A branch has two children or more,
// which bounds it in a circle.
func (t *trees) depth(id uint64) int {
	most := bits.Len64(t.pages)
	for depth := range most {
		p := t.read(id)
		if p.kind() != branchPage || p.count() == 0 {
			return depth
		}
		id = p.child(0)
	}
	return most
}

// read returns the page, or nil, which has no elements, if it cannot be read or is none.
func (t *trees) read(id uint64) page {
	p := make(page, t.pageSize)
	if _, err := t.file.ReadAt(p, int64(id)*t.pageSize); err != nil || id >= t.pages {
		return nil
	}
	if kind := p.kind(); kind != branchPage && kind != leafPage || headerSize+p.count()*elementSize > len(p) {
		return nil
	}
	return p
}

// page is the first page of a branch or of a leaf.
type page []byte

func (p page) kind() int {
	if p == nil {
		return 0
	}
	return int(binary.NativeEndian.Uint16(p[8:]))
}

func (p page) count() int {
	if p == nil {
		return 0
	}
	return int(binary.NativeEndian.Uint16(p[10:]))
}

func (p page) element(i int) []byte { return p[headerSize+i*elementSize:] }

// child returns the number of the page below element i of a branch.
func (p page) child(i int) uint64 { return binary.NativeEndian.Uint64(p.element(i)[8:]) }

// bucket returns the number of the root of the bucket in element i of a leaf. It is 0 if there is no bucket, or one
// that is kept in the value itself.
func (p page) bucket(i int) uint64 {
	e := p.element(i)
	if binary.NativeEndian.Uint32(e) != bucketElement {
		return 0
	}
	at := uint64(binary.NativeEndian.Uint32(e[4:])) + uint64(binary.NativeEndian.Uint32(e[8:]))
	if at+8 > uint64(len(e)) {
		return 0
	}
	return binary.NativeEndian.Uint64(e[at:])
}

// metaPagesRight reports whether both meta pages are what bbolt wrote.
func metaPagesRight(file *os.File, pageSize int64) bool {
	for at := range int64(2) {
		p := make([]byte, headerSize+metaSize+8)
		if _, err := file.ReadAt(p, at*pageSize); err != nil {
			return false
		}
		meta, sum := p[headerSize:headerSize+metaSize], fnv.New64a()
		_, _ = sum.Write(meta)
		if sum.Sum64() != binary.NativeEndian.Uint64(p[headerSize+metaSize:]) {
			return false
		}
	}
	return true
}

// checkAllTrees checks the trees of open files, with all of their leaves.
func checkAllTrees(files ...*file) error {
	for _, f := range files {
		if err := f.view(func(tx *bbolt.Tx) error { return checkTrees(tx, f.raw, true) }); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return nil
}
