package content

import (
	"context"

	"github.com/assay-proxy/assay/proxy/modzip"
)

// followStep is how much of a zip arrives until its files are hashed. A smaller zip is hashed
// when it is complete: that takes some hundredths of a second.
const followStep = 4 << 20

// followSteps limits the steps of a large zip, each of which leaves a piece to merge.
const followSteps = 32

// follow hashes the files of a zip, whose size may be known, while it arrives in a draft. It
// ends when complete is closed or ctx ends.
func (s zips) follow(ctx context.Context, ahead *modzip.Ahead, zip *arrived, size int64, complete <-chan struct{}) {
	step := max(followStep, size/followSteps)
	for at := int64(0); ; {
		got, err := zip.wait(ctx, at+step-1, complete)
		if err != nil || got < at+step {
			return
		}
		select {
		case <-complete:
			return // the rest waits for its memory like any zip
		default:
		}
		at = got
		if !s.advance(ctx, ahead, at) {
			return
		}
	}
}

// advance hashes what has arrived, if there is memory that nothing else waits for. It keeps
// none, since a zip may stop arriving. It reports whether the next step should be hashed.
func (s zips) advance(ctx context.Context, ahead *modzip.Ahead, size int64) bool {
	held := s.budget.HoldFor(ctx)
	if held.Try(modzip.Memory) != nil {
		return true
	}
	defer held.Free()
	return ahead.Advance(ctx, size)
}
