//go:build race

package storagetest

// RaceDetector reports whether the race detector is on. It follows each byte that is copied, so tests that copy whole files
// do fewer rounds.
const RaceDetector = true

// several is the size of a content of several chunks.
const several = 1<<20 + 300<<10

// sizes are one of each kind of those without the race detector, which follows each byte.
var sizes = []int{0, 1, 511, 32<<10 + 1, 256<<10 - 64, 512<<10 - 127, 4<<20 + 1}
