package news

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestFailuresAreSaidOnce lets a subscriber fail several times: each later call says that nothing is new, until there is,
// and the log has the first failure and the end of all.
func TestFailuresAreSaidOnce(t *testing.T) {
	var logged bytes.Buffer
	s := &subscriber{kind: "push", wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var got []Changes
	s.do = func(_ context.Context, c Changes) error {
		got = append(got, c)
		switch len(got) {
		case 3:
			s.tell([]Event{{"other", "x"}}, false)
		case 4:
			s.tell([]Event{{"push", "a"}}, false)
		case 6:
			cancel()
			return nil
		}
		return errors.New("not now")
	}
	s.tell(nil, true)
	s.run(ctx, time.Millisecond, slog.New(slog.NewTextHandler(&logged, nil)), newMetrics().failed)
	for i, c := range got {
		if want := i != 0 && i != 4; !c.All || c.Again != want {
			t.Errorf("call %d: %+v, want All, and Again %v", i, c, want)
		}
	}
	if text := logged.String(); strings.Count(text, "level=WARN") != 1 || strings.Count(text, "level=INFO") != 1 {
		t.Errorf("log:\n%s", text)
	}
}
