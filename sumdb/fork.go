package sumdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/internal/evidence"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/news"
)

// freezer knows whether a fork was seen that no administrator has cleared, and keeps the evidence
// of it. The evidence file is what freezes the mirror: the freeze outlives the process, and moving
// the file away ends it.
//
// If replicas share the store, the evidence is in the store as well and freezes all of them. Each one
// has the file, too, and moving that away ends nothing: thaw does.
type freezer struct {
	name string // of the database
	key  string // its verifier key
	dir  evidence.Dir
	log  *slog.Logger

	board   *news.Board
	shared  *forks  // nil: the evidence is not in the store
	chores  *chores // for the other replicas
	looking chan struct{}

	mu     sync.Mutex
	frozen *freeze // nil if not frozen
}

// freeze is the reason why nothing new is accepted.
type freeze struct {
	file    string // the name of the file with the evidence, "" if what the replicas share is damaged
	text    string // the evidence, "" if it was read from the file
	written bool   // the file has all of it
}

// newsOfForks is the kind of the news that the forks of a database in the store have changed.
const newsOfForks = "fork"

// state reports whether a fork was seen that no administrator has cleared, and the path of its
// evidence, "" if that could not be written.
func (f *freezer) state() (file string, frozen bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.frozen == nil:
		return "", false
	case !f.frozen.written:
		return "", true
	}
	return f.path(f.frozen.file), true
}

func (f *freezer) path(file string) string { return f.dir.Path("fork", file) }

// check returns ErrFrozen while nothing new is accepted.
func (f *freezer) check() error {
	if _, frozen := f.state(); frozen {
		return fmt.Errorf("%s: %w; the administrator of this mirror has the evidence", f.name, ErrFrozen)
	}
	return nil
}

// recheck looks for evidence again. It writes evidence that could not be written before; as long as
// that fails, the mirror stays frozen.
func (f *freezer) recheck(ctx context.Context) error {
	err := f.look(ctx)
	if err == nil {
		err = f.recheckFiles()
	}
	if err != nil {
		return fmt.Errorf("evidence about %s: %w", f.name, err)
	}
	return nil
}

// recheckFiles is recheck of the directory. What the replicas share is not thawed by it.
func (f *freezer) recheckFiles() error {
	f.mu.Lock() // held while looking, because another goroutine may be writing evidence
	defer f.mu.Unlock()
	found, err := f.files()
	if err != nil {
		return err
	}
	switch {
	case f.frozen != nil && f.frozen.file != "" && !f.frozen.written:
		return f.write(f.frozen.file, f.frozen.text)
	case f.shared != nil:
	case len(found) > 0:
		if f.frozen == nil {
			f.log.Error("frozen: there is evidence of a fork", "file", f.path(found[0]))
		}
		f.frozen = &freeze{file: found[0], written: true}
	case f.frozen != nil:
		f.log.Warn("thawed: the evidence is gone", "file", f.path(f.frozen.file))
		f.frozen = nil
	}
	return nil
}

// files returns the names of the evidence of forks in the directory, the oldest first.
func (f *freezer) files() (files []string, err error) {
	if f.dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(string(f.dir)) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, entry := range entries {
		file, kind := strings.CutPrefix(entry.Name(), "fork-")
		file, text := strings.CutSuffix(file, ".txt")
		if kind && text && isEvidence(f.name, file) {
			files = append(files, file)
		}
	}
	return files, err
}

// write writes the file of evidence. The caller holds mu.
func (f *freezer) write(file, text string) error {
	err := f.dir.Write("fork", file, text)
	if err == nil && f.frozen != nil && f.frozen.file == file {
		f.frozen.written = true
	}
	return err
}

// freeze keeps the evidence that ours and theirs are heads of two logs, and freezes the mirror.
// theirs is signed by the database; from says where it was seen. freeze returns ErrFrozen.
func (f *freezer) freeze(ours, theirs *head, found comparison, from string) error {
	text := f.describe(ours, theirs, found, from)
	f.begin(text)
	file, _ := f.state()
	f.log.Error("the checksum database forked: nothing new is accepted from it until an administrator acts",
		"size", ours.tree.N, "other", theirs.tree.N, "source", from, "file", file, "evidence", text)
	return fmt.Errorf("%s: %w: tree %d in %s is not of the log we know at size %d",
		f.name, ErrFrozen, theirs.tree.N, from, ours.tree.N)
}

// begin freezes the mirror, if it is not frozen yet, and writes the evidence. The other replicas get
// it in the background, as soon as the store takes it.
func (f *freezer) begin(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen != nil {
		return
	}
	f.frozen = &freeze{file: evidenceAt(f.name, time.Now()), text: text}
	if err := f.write(f.frozen.file, text); err != nil {
		f.log.Error("evidence of the fork cannot be written", "err", err)
	}
	if f.shared != nil {
		f.chores.add("a fork", f.look)
	}
}

// look takes over what the replicas share about forks, and shares what this one has found. It does
// nothing if the evidence is not in the store. The errors are those of the store.
func (f *freezer) look(ctx context.Context) error {
	if f.shared == nil {
		return nil
	}
	if err := f.take(ctx); err != nil {
		return err
	}
	defer func() { <-f.looking }()
	found, err := f.shared.read(ctx)
	if errors.Is(err, storage.ErrDamaged) {
		f.distrust(err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("evidence of the other replicas: %w", err)
	}
	missing := f.adopt(found)
	if len(missing) == 0 {
		return nil
	}
	_, err = f.shared.change(ctx, false, func(found []sharedFork) []sharedFork { return withForks(found, missing) })
	if errors.Is(err, storage.ErrReadOnly) {
		return nil // the replicas that write find it themselves
	}
	if err != nil {
		return fmt.Errorf("share the evidence of a fork with the other replicas: %w", err)
	}
	f.chores.add("the news of a fork", f.tell)
	return nil
}

// take begins a look, which sees what the one before it has left. It ends when looking is empty again.
func (f *freezer) take(ctx context.Context) error {
	select {
	case f.looking <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell tells the other replicas to look.
func (f *freezer) tell(ctx context.Context) error {
	return f.board.Post(ctx, news.Event{Kind: newsOfForks, Subject: f.name})
}

// distrust freezes the mirror because what the replicas share cannot be read: it may be of a fork.
func (f *freezer) distrust(damage error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen == nil {
		f.frozen = &freeze{}
		f.log.Error("frozen: the evidence in the store is damaged, and may be of a fork; look for evidence at all replicas, and then run "+thawCommand(f.name), "err", damage)
	}
}

// adopt makes the freeze and the files those of found, and returns evidence of this replica that found
// lacks.
func (f *freezer) adopt(found []sharedFork) (missing []sharedFork) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.frozen
	files, err := f.files()
	if err != nil {
		f.log.Error("the directory of the evidence cannot be read", "err", err)
	}
	missing = without(f.own(files), found)
	if was != nil && was.file == "" {
		f.frozen = nil // it was damaged, and is not any more
	}
	for _, s := range found {
		if !s.open() {
			f.release(s, slices.Contains(files, s.File))
		}
	}
	for _, s := range slices.Concat(found, missing) {
		if s.open() {
			f.hold(s, slices.Contains(files, s.File))
		}
	}
	if was != nil && f.frozen == nil {
		f.log.Warn("thawed: the evidence is cleared")
	}
	return missing
}

// own returns the evidence in files, and what this process has found. The caller holds mu.
func (f *freezer) own(files []string) (all []sharedFork) {
	for _, file := range files {
		text, err := readText(f.path(file))
		if err != nil {
			f.log.Error("evidence of a fork cannot be read; the other replicas get only its name", "file", f.path(file), "err", err)
		}
		all = append(all, sharedFork{File: file, Text: text})
	}
	if f.frozen != nil && f.frozen.file != "" && !slices.Contains(files, f.frozen.file) {
		all = append(all, sharedFork{File: f.frozen.file, Text: f.frozen.text})
	}
	return all
}

// moveHere makes evidence in the store that of the directory alone: replicas have shared the store, which
// was copied, and now one process has it. From then on moving the file away thaws it.
func (f *freezer) moveHere(ctx context.Context, stored *forks) error {
	found, err := stored.read(ctx)
	if errors.Is(err, storage.ErrDamaged) {
		found = []sharedFork{{File: evidenceAt(f.name, time.Now()), Text: "The evidence in the store is damaged, and may be of a fork: " + err.Error() + "\n"}}
	} else if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(s sharedFork) bool { return !s.open() })
	if len(found) == 0 {
		return nil
	}
	if !f.holdAll(found) {
		return nil // the files cannot be written: the evidence stays in the store, and freezes each start
	}
	_, err = stored.change(ctx, true, func(all []sharedFork) []sharedFork {
		for i := range all {
			if all[i].open() {
				all[i].Cleared, all[i].Reason = time.Now().UTC().Truncate(time.Second), "moved to the directory of a server that has the store alone"
			}
		}
		return all
	})
	if errors.Is(err, storage.ErrReadOnly) {
		return nil
	}
	return err
}

// holdAll freezes the mirror by all of found, and reports whether each has its file.
func (f *freezer) holdAll(found []sharedFork) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	files, err := f.files()
	for _, s := range found {
		f.hold(s, slices.Contains(files, s.File))
	}
	if err == nil {
		files, err = f.files()
	}
	return err == nil && len(without(slices.Clone(found), asForks(files))) == 0
}

// hold freezes the mirror by the evidence s, and writes its file if it is not there. The caller holds
// mu.
func (f *freezer) hold(s sharedFork, there bool) {
	switch {
	case f.frozen == nil:
		f.frozen = &freeze{file: s.File, text: s.Text, written: there}
		f.log.Error("frozen: there is evidence of a fork", "file", f.path(s.File))
	case f.frozen.file == s.File && f.frozen.written && !there:
		f.frozen = &freeze{file: s.File, text: s.Text}
		f.log.Warn("still frozen: the evidence was moved away here, but all replicas share it; to clear it for all of them, run "+thawCommand(f.name), "file", f.path(s.File))
	}
	if there {
		return
	}
	if err := f.write(s.File, s.Text); err != nil {
		f.log.Error("evidence of the fork cannot be written here; the store has it", "err", err)
	}
}

// release ends the freeze by the evidence s, which an administrator has cleared. The file gets another
// name. The caller holds mu.
func (f *freezer) release(s sharedFork, there bool) {
	if there {
		if err := f.dir.Clear("fork", s.File); err != nil {
			f.log.Error("the file of cleared evidence keeps its name", "file", f.path(s.File), "err", err)
		}
	}
	if f.frozen != nil && f.frozen.file == s.File {
		f.frozen = nil
	}
}

// thaw clears all evidence of forks, for all replicas, and returns the names of the files. The reason
// is logged, and kept if the store is shared.
func (f *freezer) thaw(ctx context.Context, reason string) (cleared []string, err error) {
	if f.shared == nil {
		cleared, err = f.thawFiles()
	} else {
		cleared, err = f.thawAll(ctx, reason)
	}
	if len(cleared) > 0 {
		f.log.Warn("thawed by an administrator", "files", cleared, "reason", reason)
	}
	return cleared, err
}

// thawFiles is thaw if no other replica has the store.
func (f *freezer) thawFiles() (cleared []string, err error) {
	if err := f.recheckFiles(); err != nil { // what an administrator could not see is not cleared
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	files, err := f.files()
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if err := f.dir.Clear("fork", file); err != nil {
			return cleared, err
		}
		cleared = append(cleared, f.path(file))
	}
	f.frozen = nil
	if len(cleared) == 0 {
		return nil, notFrozen(f.name, string(f.dir))
	}
	return cleared, nil
}

// thawAll is thaw of all replicas.
func (f *freezer) thawAll(ctx context.Context, reason string) (cleared []string, err error) {
	if err := f.take(ctx); err != nil {
		return nil, err
	}
	defer func() { <-f.looking }()
	_, damage := f.shared.read(ctx)
	now := time.Now().UTC().Truncate(time.Second)
	found, err := f.shared.change(ctx, true, func(found []sharedFork) []sharedFork {
		cleared, found = nil, withForks(found, f.unshared(found))
		for i := range found {
			if found[i].open() {
				found[i].Cleared, found[i].Reason = now, reason
				cleared = append(cleared, f.path(found[i].File))
			}
		}
		return found
	})
	if err != nil {
		return nil, fmt.Errorf("clear the evidence of forks in the store: %w", err)
	}
	f.adopt(found)
	if err := f.tell(ctx); err != nil {
		return cleared, fmt.Errorf("the evidence is cleared, but the other replicas could not be told: %w; run this command again", err)
	}
	if len(cleared) == 0 && damage == nil {
		return nil, notFrozen(f.name, string(f.dir))
	}
	return cleared, nil
}

// unshared returns evidence of this replica that found lacks.
func (f *freezer) unshared(found []sharedFork) []sharedFork {
	f.mu.Lock()
	defer f.mu.Unlock()
	files, err := f.files()
	if err != nil {
		f.log.Error("the directory of the evidence cannot be read", "err", err)
	}
	return without(f.own(files), found)
}

// describe returns the text of the evidence: all that is needed to check, with nothing but the key,
// that the database signed two logs.
func (f *freezer) describe(ours, theirs *head, found comparison, from string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The checksum database %s signed two tree heads that cannot be of one log.\n", f.name)
	fmt.Fprintf(&b, "Seen %s in %s. Both signatures are by the key\n\t%s\n",
		time.Now().UTC().Format(time.RFC3339), from, f.key)
	fmt.Fprintf(&b, "\nOur tree head, accepted %s:\n%s", ours.time.UTC().Format(time.RFC3339), indent(ours.note))
	fmt.Fprintf(&b, "\nThe other tree head:\n%s", indent(theirs.note))
	fmt.Fprintf(&b, "\nThe tree of size %d has, at size %d, the root\n\t%s\nand the head of size %d says it is\n\t%s\n",
		found.newer.N, found.older.N, found.root, found.older.N, found.older.Hash)
	if len(found.proof) > 0 {
		fmt.Fprintf(&b, "\nProof of the former, as checked by tlog.CheckTree:\n")
		for _, hash := range found.proof {
			fmt.Fprintf(&b, "\t%s\n", hash)
		}
	}
	b.WriteString(`
What this means: the database, or a holder of its key, shows different logs
to different people. This is what a checksum database must never do.

What happens now: this mirror goes on with what it has proved. Records, tiles and
the head it holds are answered; nothing new is accepted.

What to do: keep this file, and tell others: https://go.dev/security for
sum.golang.org, the operators of the database otherwise. Compare both heads with
those that other mirrors have. If ours is the true log, let this mirror, and all
replicas that share its store, go on:
	` + thawCommand(f.name) + `
If the other is, everything that was verified here is in doubt: begin with an empty
store.
`)
	return b.String()
}

func indent(text []byte) string {
	lines := slices.Collect(strings.Lines(string(text)))
	return "\t" + strings.Join(lines, "\t")
}
