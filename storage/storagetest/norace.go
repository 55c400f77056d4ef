//go:build !race

package storagetest

// RaceDetector reports whether the race detector is on. It follows each byte that is copied, so tests that copy whole files
// do fewer rounds.
const RaceDetector = false

// several is the size of a content of several chunks and parts.
const several = 9 << 20

// sizes are around the boundaries that an engine may have: empty objects, inline
// values, chunks, parts of an upload, transactions.
var sizes = []int{
	0, 1, 511, 4 << 10,
	32<<10 - 1, 32 << 10, 32<<10 + 1,
	64 << 10, 128<<10 + 1,
	256<<10 - 65, 256<<10 - 64, 256<<10 - 63, 256 << 10, 256<<10 + 1,
	512<<10 - 128, 512<<10 - 127, 1 << 20,
	4<<20 - 1025, 4<<20 - 1024, 4<<20 - 1023, 4 << 20, 4<<20 + 1, 5<<20 + 1,
}
