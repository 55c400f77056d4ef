package bolt

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// Names of the two files in the directory of a store.
const (
	metaName  = "meta.db"
	blobsName = "blobs.db"
)

// unfinished is the pattern for the end of the name of an incomplete file; the star is a random
// text.
const unfinished = ".*.new"

const (
	// magic marks the bbolt files of this program.
	magic = "assay storage"

	// schemaVersion is the version of the content of the files. A store with a higher one is
	// refused. Version 3 has a journal in meta.db; a store of version 2 gets it with the first small
	// object. The content of blobs.db has not changed since 1.
	schemaVersion = 3

	// keysVersion is the first version whose meta.db has the keys of today, see Rekey.
	keysVersion = 2

	// metaPageSize is the page size of most machines. It is fixed so that a store can move between
	// machines with different ones.
	metaPageSize = 4 << 10

	// blobsPageSize is larger because bbolt writes the list of free pages, 8 bytes each, with every
	// commit. With pages four times as large it is a quarter as long: 512 KiB for each GiB that was
	// deleted and not yet used again.
	blobsPageSize = 16 << 10
)

// Buckets and keys. Both files have bucketSchema.
var (
	bucketSchema = []byte("schema")
	keyMagic     = []byte("magic")
	keyVersion   = []byte("version")
	keyPair      = []byte("pair")     // the same random value in both files
	keyJoined    = []byte("joined")   // blobs.db: there was a whole meta.db, so it is a loss if there is none
	keyTotals    = []byte("totals")   // meta.db: a totals value
	keyRekeying  = []byte("rekeying") // meta.db: a rekeyState, while keys are moved

	keyFrames = []byte("frames") // in the journal: its frames
	keyMark   = []byte("mark")   // meta.db: the mark of the frames in the journal that count

	bucketContents = []byte("contents") // meta.db: id, piece → a piece of the content of a small object
	bucketJournal  = []byte("journal")  // meta.db: the journal, under keyFrames
	bucketObjects  = []byte("objects")  // meta.db: key → object record
	bucketRefs     = []byte("refs")     // meta.db: blob id, key → nothing
	bucketHashes   = []byte("hashes")   // meta.db: SHA-256 → id of the blob that new objects share
	bucketIntents  = []byte("intents")  // meta.db: blob id → nothing, while no object has the blob
	bucketStates   = []byte("records")  // meta.db: name → bucket with the value of a state

	bucketBlobs = []byte("blobs") // blobs.db: blob id, segment → bucket of chunks
)

// A blob is the content of one or more large objects. It is written in segments of at most 4 MiB,
// each by one transaction into a bucket of its own, because a transaction that appends to a bucket
// writes the chunks at its end again. The key of the bucket is the id of the blob and the number of
// the segment; the bucket contains the chunks by their number in the blob. A segment has the chunks
// that were in memory when it was written. (Earlier versions put a single last chunk into the
// segment before it.)
const (
	// chunkSize is 256 KiB minus bbolt's overhead, so that the two chunks that it puts on a leaf
	// fill their pages exactly.
	chunkSize = 256<<10 - 64

	// sumSize is the size of the CRC32C at the beginning of a chunk.
	sumSize = 4

	// segmentChunks makes a transaction of 4 MiB: long enough that its two fsyncs do not dominate,
	// short enough for memory and for other waiting writers.
	segmentChunks = 16

	// padSize is the size of a value without meaning in a segment that would otherwise be smaller:
	// bbolt puts a very small bucket into the page of its parent, which moves.
	padSize = blobsPageSize / 4

	// freeSegments is how many segments one transaction deletes. It reads only their first pages,
	// and keeps their page numbers until the commit.
	freeSegments = 64
)

const (
	// bufferSize is the size of a chunk with its checksum.
	bufferSize = sumSize + chunkSize

	// pieceSize is how much of a chunk a reader copies when there is no memory to keep the chunk
	// while its client reads. Each piece reads the chunk again: a smaller one takes more time, a
	// larger one more memory.
	pieceSize = 16 << 10

	// smallContent is the largest content of an inline object that is not counted. Each request has
	// at most one, and its memory counts as part of the headers.
	smallContent = 8 << 10

	// spareChunks is how many chunks are read at the same time only to copy a piece.
	spareChunks = 4
)

// chunkCount returns the number of chunks of a blob of size bytes.
func chunkCount(size int64) int {
	return int((size + chunkSize - 1) / chunkSize)
}

// chunkLen returns the length of a chunk of a blob of size bytes.
func chunkLen(size int64, chunk int) int {
	return int(min(chunkSize, size-int64(chunk)*chunkSize))
}

// chunkSum returns the checksum of a chunk, which covers the numbers of its blob and its own.
func chunkSum(id uint64, chunk int, data []byte) uint32 {
	var place [16]byte
	binary.BigEndian.PutUint64(place[:], id)
	binary.BigEndian.PutUint64(place[8:], uint64(chunk))
	return crc32.Update(crc32.Checksum(data, castagnoli), castagnoli, place[:])
}

// blobKey returns the id of a blob as it is written in meta.db. The keys of its segments begin with
// it.
func blobKey(id uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, id)
}

func segmentKey(id uint64, segment int) []byte {
	return binary.BigEndian.AppendUint32(blobKey(id), uint32(segment))
}

// padKey is the key of the value of padSize bytes. It is after those of all chunks.
var padKey = binary.BigEndian.AppendUint32(nil, math.MaxUint32)

func chunkKey(chunk int) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(chunk))
}
