package vcs_test

import (
	"testing"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// What a command prints is in memory that is counted, and a command that prints more
// than there is memory for, or than can be meant, is ended.
func TestOutput(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		budget, printed int64
		ended           string
	}{
		{1 << 10, 32 << 10, ""}, // as all do
		{64 << 20, 1 << 20, ""},
		{1 << 20, 2 << 20, memory.ErrFull.Error()},
		{64 << 20, vcs.MaxOutput + 1<<10, "too much output"},
	} {
		kept, err := vcs.Output(t, test.budget, test.printed)
		ended := ""
		if err != nil {
			ended = err.Error()
		}
		if len(ended) < len(test.ended) || ended[:len(test.ended)] != test.ended || test.ended == "" && ended != "" {
			t.Errorf("%d bytes, budget %d: ended with %q, want %q", test.printed, test.budget, ended, test.ended)
		}
		if int64(kept) > max(test.budget, 128<<10) {
			t.Errorf("%d bytes, budget %d: a buffer of %d", test.printed, test.budget, kept)
		}
	}
}
