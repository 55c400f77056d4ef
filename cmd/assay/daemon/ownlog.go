package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// SharesLog reports whether the own log is in the bucket of the setting store.
func SharesLog(c config.Config) bool { return c.Store != "" && !c.SingleReplica }

// SharedLogConfig returns the configuration of the own log in a bucket, without its function Announce, and what
// must be closed after it: nil, or the store of its guard. The bucket is that of the setting store.
func SharedLogConfig(ctx context.Context, c config.Config, bucket *s3.DB) (pinlog.Config, *s3.DB, error) {
	own := OwnLogConfig(c)
	own.Bucket = &pinlog.Bucket{Store: bucket, Place: bucket.Place(), Key: c.LogKey, Trust: c.LogTrust}
	if c.LogKey != "" {
		// A missing file is one that assay log create makes.
		if err := config.CheckMode(c.LogKey, config.OthersAny); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return own, nil, fmt.Errorf("log-key: %w", err)
		}
	}
	if !strings.HasPrefix(c.LogGuard, "s3://") {
		return own, nil, nil
	}
	elsewhere := c
	elsewhere.Store, own.Guard = c.LogGuard, ""
	guard, err := OpenBucket(ctx, elsewhere, s3.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return own, nil, fmt.Errorf("log-guard: %w", err)
	}
	if err := checkElsewhere(ctx, bucket, guard); err != nil {
		return own, nil, errors.Join(fmt.Errorf("log-guard: %w", err), guard.Close())
	}
	own.Bucket.Guard = guard
	return own, guard, nil
}

// probeGuard refuses a guard in an object store that does not keep conditions: two servers could note two heads there, one
// over the other, and both would sign.
func probeGuard(ctx context.Context, guard *s3.DB) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	report, err := guard.Probe(ctx)
	if err = cmp.Or(err, report.Err()); err != nil {
		return fmt.Errorf("log-guard: %w; name a bucket of an object store that keeps conditions, or a directory", err)
	}
	return nil
}

// checkElsewhere returns an error if the store of the guard is the one that it guards. An address says little: one bucket
// has several.
func checkElsewhere(ctx context.Context, bucket, guard *s3.DB) error {
	same := guard.Place() == bucket.Place()
	if !same {
		own, err := bucket.Identity(ctx, false)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // there is no store yet, and no log that is guarded
		}
		if err != nil {
			return err
		}
		other, err := guard.Identity(ctx, false)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		same = other == own
	}
	if same {
		return errors.New("it is the store itself, whose state it should guard; name another bucket")
	}
	return nil
}

// OwnLogConfig returns the configuration of our own log.
func OwnLogConfig(c config.Config) pinlog.Config {
	return pinlog.Config{Dir: filepath.Join(c.Data, "log"), Name: c.LogName, Guard: c.LogGuard, Adopt: adoptCommand(c)}
}

// adoptCommand returns the command assay log adopt with the settings that it needs.
func adoptCommand(c config.Config) string {
	command := "assay log adopt --data " + ShellWord(c.Data)
	if c.LogGuard != "" {
		command += " --log-guard " + ShellWord(c.LogGuard)
	}
	return command
}

// ShellWord returns text as one word of a shell command, for copying.
func ShellWord(text string) string {
	if strings.ContainsAny(text, " \t\"'\\$`&|;<>()*?#~") {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}

// logNews is the kind of news about the own log.
const logNews = "ownlog"

// TellLog tells the servers that share a store that the own log there, or the evidence against it, has changed.
func TellLog(ctx context.Context, store storage.Store) error {
	return news.New(store, slog.New(slog.DiscardHandler)).Post(ctx, news.Event{Kind: logNews})
}

// logTeller tells the other servers that the own log in the bucket has changed, and reads what they tell.
type logTeller struct {
	board *news.Board
	guard io.Closer // nil: none
	log   *slog.Logger
	wake  chan struct{}
}

func newLogTeller(board *news.Board, log *slog.Logger) *logTeller {
	return &logTeller{board: board, log: log, wake: make(chan struct{}, 1)}
}

// announce makes run post.
func (t *logTeller) announce() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// tellEvery is the least time between two posts: those of a busy log are joined.
const tellEvery = 250 * time.Millisecond

// run posts until ctx ends. What is not posted is found by the next pin of another server, or its next request
// for what it does not have.
func (t *logTeller) run(ctx context.Context) {
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
			return
		}
		if err := t.board.Post(ctx, news.Event{Kind: logNews}); err != nil && ctx.Err() == nil {
			t.log.Warn("the other servers are not told that the own log has changed", "err", err)
		}
		select {
		case <-time.After(tellEvery):
		case <-ctx.Done():
			return
		}
	}
}
