package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/assay-proxy/assay/internal/evidence"
	"github.com/assay-proxy/assay/storage/news"
)

// conflicts keeps the evidence that the log has two records of one version. If replicas share the
// store, it is an object there as well, and each of them that runs copies it into its directory.
type conflicts struct {
	objects *objects
	dir     evidence.Dir
	board   *news.Board
	chores  *chores // for the other replicas
	log     *slog.Logger
	since   time.Time // what is older is not copied without news: an administrator may have moved it away
}

// conflictsBefore is how long before the start of a replica a conflict is new to it.
const conflictsBefore = time.Hour

// newsOfConflicts is the kind of the news of a conflict; the subject is the name of its evidence.
const newsOfConflicts = "conflict"

// keep keeps the evidence, and returns the path of the file. The other replicas get it in the
// background. At most evidence.Most are kept.
func (c *conflicts) keep(text string) (string, error) {
	file := evidenceAt(c.objects.name, time.Now())
	path, err := c.dir.Keep("conflict", file, text)
	if err == nil && c.board.Shared() {
		c.chores.add("the conflict "+file, func(ctx context.Context) error {
			if err := c.objects.put(ctx, conflictPath(file), []byte(text)); err != nil {
				return err
			}
			return c.board.Post(ctx, news.Event{Kind: newsOfConflicts, Subject: file})
		})
	}
	return path, err
}

// conflictPath returns the path of the object with the evidence in file.
func conflictPath(file string) string { return "evidence/conflict-" + file }

// hear copies evidence that other replicas have shared into the directory.
func (c *conflicts) hear(ctx context.Context, changes news.Changes) error {
	files := changes.Subjects
	if changes.All {
		prefix := c.objects.key(conflictPath(""))
		for key, err := range c.objects.store.Keys(ctx, prefix) {
			if err != nil {
				return fmt.Errorf("evidence of conflicts: %w", err)
			}
			if file := strings.TrimPrefix(key, prefix); file >= evidenceAt(c.objects.name, c.since) {
				files = append(files, file)
			}
		}
	}
	for _, file := range files {
		if err := c.copy(ctx, file); err != nil {
			return err
		}
	}
	return nil
}

// copy copies evidence that another replica has shared.
func (c *conflicts) copy(ctx context.Context, file string) error {
	if !isEvidence(c.objects.name, file) {
		return nil // it is about another database
	}
	if _, err := os.Lstat(c.dir.Path("conflict", file)); err == nil {
		return nil
	}
	text, err := c.objects.read(ctx, conflictPath(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := c.dir.Keep("conflict", file, string(text)); err != nil {
		c.log.Error("evidence of a conflict that another replica has found cannot be written here; the store has it", "file", file, "err", err)
	}
	return nil
}
