package vcs_test

import (
	"testing"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// The output of a command counts against the memory budget. A command is killed if its
// output exceeds the budget, or the limit for any output.
func TestOutput(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		budget, printed int64
		ended           string
	}{
		{1 << 10, 32 << 10, ""}, // small output is not counted
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
