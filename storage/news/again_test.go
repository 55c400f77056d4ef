package news

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// away is a store whose states cannot be read for some time.
type away struct {
	storage.Store
	left atomic.Int32 // reads that fail
}

func (s *away) State(ctx context.Context, name string) ([]byte, error) {
	if s.left.Add(-1) >= 0 {
		return nil, errors.New("away")
	}
	return s.Store.State(ctx, name)
}

// lines is a handler that sends each message.
type lines struct {
	slog.Handler
	to chan string
}

func (l lines) Handle(_ context.Context, r slog.Record) error {
	l.to <- r.Message
	return nil
}

func (lines) Enabled(context.Context, slog.Level) bool { return true }

// A store that answers again is said once, as one that does not.
func TestAnswersAgain(t *testing.T) {
	b := replica(t, s3test.Start(t))
	store, said := &away{Store: b.store}, make(chan string, 100)
	store.left.Store(2)
	again := New(store, slog.New(lines{slog.DiscardHandler, said}))
	again.every = b.every
	run(t, again)
	for _, want := range []string{"cannot be read", "answers again"} {
		if line := <-said; !strings.Contains(line, want) {
			t.Errorf("said %q, want %q", line, want)
		}
	}
}
