package notfound_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/assay-proxy/assay/internal/notfound"
)

func TestOnly(t *testing.T) {
	t.Parallel()
	_, missing := os.Open("testdata/none")
	for _, test := range []struct {
		name            string
		err             error
		stated, matches bool
	}{
		{"a statement", fmt.Errorf("x: %w", notfound.Stated), true, true},
		{"a statement about a missing file", fmt.Errorf("%w: %w", notfound.Stated, missing), true, true},
		{"a missing file", fmt.Errorf("x: %w: %w", missing, context.DeadlineExceeded), false, false},
		{"another error", context.DeadlineExceeded, false, false},
		{"no error", nil, false, false},
	} {
		got := notfound.Only(test.err)
		if notfound.Is(got) != test.stated || errors.Is(got, fs.ErrNotExist) != test.matches {
			t.Errorf("%s: stated %v, fs.ErrNotExist %v", test.name, notfound.Is(got), errors.Is(got, fs.ErrNotExist))
		}
		if fmt.Sprint(got) != fmt.Sprint(test.err) || errors.Is(got, context.DeadlineExceeded) != errors.Is(test.err, context.DeadlineExceeded) {
			t.Errorf("%s: %v became %v", test.name, test.err, got)
		}
		var path *fs.PathError
		if errors.As(got, &path) != errors.As(test.err, &path) {
			t.Errorf("%s: its type is lost", test.name)
		}
	}
}

// The absence of a part is no statement about the whole, and keeps everything else.
func TestOfPart(t *testing.T) {
	t.Parallel()
	err := notfound.OfPart(fmt.Errorf("tile 5: %w: %w", notfound.Stated, context.DeadlineExceeded))
	if notfound.Is(err) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v says that something does not exist", err)
	}
	if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "tile 5: file does not exist: context deadline exceeded" {
		t.Errorf("%v is not the error that it was", err)
	}
	if err := notfound.OfPart(context.Canceled); err != context.Canceled {
		t.Errorf("%v instead of another error", err)
	}
}
