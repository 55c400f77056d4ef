package predict

import (
	"time"

	"github.com/assay-proxy/assay/proxy/request"
)

// Limits of what is remembered. They bound the memory of a Predictor to some 6 MiB.
const (
	// maxClients bounds the clients, maxFiles the files and modules that are remembered for one of
	// them, and maxEntries those of all. See Predictor.forgetOldest.
	maxClients = 100
	maxFiles   = 4000
	maxEntries = 24000

	// earned is how many entries a client earns by each request, and by each use of a prediction: more
	// than it takes to remember them. See Predictor.most.
	earned = 4

	// enoughUsed is how many predictions a client must have used to count as one that uses them.
	enoughUsed = 8

	// maxPath is the length of the longest module path with a version that is remembered.
	maxPath = 255

	// idle is the time without a request after which a client is forgotten, and the time after which
	// a predicted file that was not requested is wasted.
	idle = 30 * time.Second

	// sweepAfter is how often a request makes the clients be looked for that have left.
	sweepAfter = time.Second

	// longest is the time after which a client is forgotten that never pauses, such as a site with
	// many jobs: what it requested is of builds that have ended.
	longest = 10 * time.Minute

	// MaxMod is the size of the largest go.mod that is read, and MaxZip that of the largest file that is
	// fetched before a client requests it, in bytes.
	MaxMod = 64 << 10
	MaxZip = maxUnusedBytes
)

// Limits of the bytes that were fetched and not requested, of one client and of all together. Those of files
// that are still arriving count, see Fetch.Take. While they are reached no zip is predicted.
const (
	maxUnusedBytes    = 64 << 20
	maxAllUnusedBytes = 256 << 20
)

// Reason says why a predicted file was not fetched.
type Reason uint8

const (
	NotNow Reason = iota // there was no place, memory or room for it: it may be predicted again
	Held                 // it is stored
	Failed               // it is not there, or too large: it counts as wasted
)

// Stats are counts since the start, by kind.
type Stats [request.NumKinds]Count

// Count counts files of one kind that were fetched because of a prediction. Each file that the client
// requests is used; what it has not requested when it is forgotten, or after 30 seconds, is wasted.
type Count struct {
	Predicted, Used, Wasted                int64 // files
	PredictedBytes, UsedBytes, WastedBytes int64
}

func (c *Count) waste(size int64) {
	c.Wasted++
	c.WastedBytes += size
}

// tally is what is counted for all clients.
type tally struct {
	stats  Stats
	unused int64 // bytes that were fetched, or are arriving, and were not requested
}

// most returns how many bytes of one client may be unused, which has unused ones now: a part of what all others
// leave, so that any number of clients leaves some for the next one.
func (t *tally) most(unused int64) int64 {
	return min(maxUnusedBytes, (maxAllUnusedBytes-t.unused+unused)*maxUnusedBytes/maxAllUnusedBytes)
}
