package bolt

import "os"

// The size of the read-ahead grows from minAhead to maxAhead chunks, so that the first byte does
// not wait for 16 MiB. With 1 and 8 MiB instead of 4 and 16, reading from a virtual disk was a
// fifth slower.
const (
	minAhead = 16
	maxAhead = 64
)

// readAhead tells the kernel which chunks are next when an object is read sequentially. The
// kernel's own read-ahead tracks one position in the file for all readers, and fails when there are
// several.
type readAhead struct {
	next    int // number after the last chunk that was read
	window  int // chunks to read ahead
	advised int // number after the last chunk that the kernel was told to read ahead
}

// advise is called before a read of a chunk of the blob with these extents in f.
func (a *readAhead) advise(f *os.File, chunks extents, chunk int) {
	if chunk != 0 && chunk != a.next {
		return
	}
	a.advised = max(a.advised, chunk)
	if a.advised-chunk > a.window/2 {
		return
	}
	a.window = min(max(2*a.window, minAhead), maxAhead)
	end := min(chunk+a.window, len(chunks))
	if a.advised < end {
		// Usually the chunks are adjacent in the file, and one call is enough.
		first, next := chunks[a.advised], chunks[a.advised]
		for _, offset := range chunks[a.advised:end] {
			if offset < next || offset > next+blobsPageSize {
				willNeed(f, first, next-first)
				first = offset
			}
			next = offset + sumSize + chunkSize
		}
		willNeed(f, first, next-first)
		a.advised = end
	}
}
