package sumdb_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// forkOf returns a fork of log at the given size, with records of its own up to end.
func forkOf(log *sumdbtest.Log, size, end int64) *sumdbtest.Log {
	fork := log.Fork(size)
	for fork.Size() < end {
		fork.AddText([]byte("forked " + sumdbtest.Hash(string(rune(fork.Size()))) + "\n"))
	}
	return fork
}

var forks = []struct {
	name    string
	size    int64 // of the true log when the fork is shown
	at, end int64 // where the fork begins, and its size
}{
	{name: "equal", size: 300, at: 290, end: 300},
	{name: "smaller", size: 300, at: 100, end: 200},
	{name: "smaller by one", size: 300, at: 298, end: 299},
	{name: "larger, in the edge", size: 300, at: 299, end: 310},
	{name: "larger, in a tile we hold", size: 300, at: 10, end: 310},
	{name: "larger, in the first record", size: 700, at: 0, end: 5000},
	{name: "larger, after a full tile", size: 513, at: 512, end: 2000},
	{name: "of a full tile", size: 256, at: 255, end: 256},
}

func TestFork(t *testing.T) {
	t.Parallel()
	for _, tt := range forks {
		for _, way := range []string{"latest", "lookup"} {
			t.Run(tt.name+" by "+way, func(t *testing.T) {
				log := newLog(t, tt.size)
				shown := log
				store, evidence := newStore(t), filepath.Join(t.TempDir(), "evidence")
				m := open(t, log, store, evidence, fetchFrom(&shown))
				held := sumdbtest.Filler(tt.size / 2)
				lookup(t, m, held)
				askAll(t, m, log, tt.size)
				if _, frozen := m.Frozen(); frozen || len(evidenceFiles(t, evidence)) > 0 {
					t.Fatal("frozen before the fork")
				}

				shown = forkOf(log, tt.at, tt.end)
				var err error
				if way == "latest" {
					err = m.Refresh(t.Context())
				} else {
					mod := module.Version{Path: "example.com/forked", Version: "v1.0.0"}
					shown.Point(mod, 0)
					shown.Tamper(withRecordOf(mod))
					_, err = m.Lookup(t.Context(), mod)
				}
				if !errors.Is(err, sumdb.ErrFrozen) {
					t.Fatalf("a fork is answered with %v, want ErrFrozen", err)
				}
				checkEvidence(t, log, shown, readEvidence(t, evidence), tt.size, tt.end)
				checkFrozen(t, m, log, tt.size, held)

				m.Close()
				store.reopen()
				m = open(t, log, store, evidence, fetchFrom(&shown))
				checkFrozen(t, m, log, tt.size, held)
				thaw(t, m, log, evidence, &shown)
				checkStore(t, store, log)
			})
		}
	}
}

// withRecordOf replaces the record in a lookup by a well-formed record of mod: the head must be
// checked all the same.
func withRecordOf(mod module.Version) func(string, []byte, error) ([]byte, error) {
	return func(path string, data []byte, err error) ([]byte, error) {
		if !strings.HasPrefix(path, "lookup/") || err != nil {
			return data, err
		}
		_, _, head, err := tlog.ParseRecord(data)
		msg, _ := tlog.FormatRecord(0, sumdbtest.Text(mod, sumdbtest.Hash("zip"), sumdbtest.Hash("mod")))
		return append(msg, head...), err
	}
}

// askAll requests everything from m, so that m holds all it can.
func askAll(t *testing.T, m *sumdb.Mirror, log *sumdbtest.Log, size int64) {
	t.Helper()
	eachTile(size, 256, func(tile tlog.Tile) {
		want, _ := log.Tile(tile)
		if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Tile(%s) = %d bytes, %v, want those of the true log", tile.Path(), len(got), err)
		}
	})
}

func checkFrozen(t *testing.T, m *sumdb.Mirror, log *sumdbtest.Log, size int64, held module.Version) {
	t.Helper()
	if file, frozen := m.Frozen(); !frozen || file == "" {
		t.Fatalf("Frozen = %q, %v", file, frozen)
	}
	if counter(t, m, "assay_sumdb_frozen", "") != 1 {
		t.Error("the metric says it is not frozen")
	}
	if head, err := m.Latest(t.Context()); err != nil || !bytes.Equal(head, log.Head(size)) {
		t.Errorf("Latest = %q, %v, want our head", head, err)
	}
	body, err := m.Reply(t.Context(), lookup(t, m, held))
	if err != nil || !bytes.HasSuffix(body, log.Head(size)) {
		t.Errorf("Reply = %q, %v, want our head", body, err)
	}
	eachTile(size, 50, func(tile tlog.Tile) {
		if tile.L < 0 && tile.N == size>>8 {
			return // a partial data tile is never held
		}
		want, _ := log.Tile(tile)
		if got, err := m.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) {
			t.Errorf("Tile(%s) = %d bytes, %v, want those of the true log", tile.Path(), len(got), err)
		}
	})
	for what, err := range map[string]error{
		"Refresh": m.Refresh(t.Context()),
		"Lookup":  second(m.Lookup(t.Context(), module.Version{Path: "example.com/x", Version: "v1.0.0"})),
		"Tile":    second(m.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: size >> 8, W: 256})),
	} {
		if !errors.Is(err, sumdb.ErrFrozen) {
			t.Errorf("%s of something new = %v, want ErrFrozen", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// checkEvidence checks the evidence with nothing but its text.
func checkEvidence(t *testing.T, log, fork *sumdbtest.Log, text string, ours, theirs int64) {
	t.Helper()
	verifier, err := note.NewVerifier(log.Key())
	if err != nil {
		t.Fatal(err)
	}
	for _, head := range [][]byte{log.Head(ours), fork.Head(theirs)} {
		indented := "\t" + strings.ReplaceAll(strings.TrimSuffix(string(head), "\n"), "\n", "\n\t") + "\n"
		if !strings.Contains(text, indented) {
			t.Errorf("evidence lacks the head\n%s\n%s", indented, text)
		}
		if _, err := note.Open(head, note.VerifierList(verifier)); err != nil {
			t.Error(err)
		}
	}
	newer, older, size := fork, log, ours
	if theirs < ours {
		newer, older, size = log, fork, theirs
	}
	root := newer.Tree(size).Hash
	if !strings.Contains(text, root.String()) || !strings.Contains(text, older.Tree(size).Hash.String()) {
		t.Errorf("evidence lacks a root at size %d:\n%s", size, text)
	}
	if ours == theirs {
		return
	}
	_, after, _ := strings.Cut(text, "Proof of the former")
	_, after, _ = strings.Cut(after, "\n")
	var proof tlog.TreeProof
	for line := range strings.Lines(after) {
		hash, err := tlog.ParseHash(strings.TrimSpace(line))
		if err != nil {
			break
		}
		proof = append(proof, hash)
	}
	tree := newer.Tree(max(ours, theirs))
	if err := tlog.CheckTree(proof, tree.N, tree.Hash, size, root); err != nil {
		t.Errorf("the proof of %d hashes in the evidence: %v", len(proof), err)
	}
}

// thaw clears the evidence, as an administrator does after finding that ours is the true log.
func thaw(t *testing.T, m *sumdb.Mirror, log *sumdbtest.Log, evidence string, shown **sumdbtest.Log) {
	t.Helper()
	if err := m.Recheck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, frozen := m.Frozen(); !frozen {
		t.Fatal("thawed while the evidence is there")
	}
	for _, file := range evidenceFiles(t, evidence) {
		if err := os.Rename(file, filepath.Join(t.TempDir(), "seen")); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Recheck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if file, frozen := m.Frozen(); frozen {
		t.Fatalf("frozen without evidence: %s", file)
	}
	*shown = log
	log.Fill(log.Size() + 100)
	refresh(t, m)
	if m.Size() != log.Size() {
		t.Errorf("Size = %d after the thaw, want %d", m.Size(), log.Size())
	}
	lookup(t, m, sumdbtest.Filler(log.Size()-1))
}

// An object under our head that is not held counts as new, too.
func TestFrozenFetchesNothing(t *testing.T) {
	t.Parallel()
	log := newLog(t, 700)
	shown := log
	m := open(t, log, newStore(t), t.TempDir(), fetchFrom(&shown))
	refresh(t, m)
	shown = forkOf(log, 690, 710)
	if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Fatalf("Refresh = %v, want ErrFrozen", err)
	}
	before := log.Requests("") + shown.Requests("")
	for _, tile := range []tlog.Tile{{H: 8, L: 0, N: 1, W: 256}, {H: 8, L: 0, N: 1, W: 3}, {H: 8, L: -1, N: 0, W: 256}, {H: 8, L: -1, N: 2, W: 5}} {
		if _, err := m.Tile(t.Context(), tile); !errors.Is(err, sumdb.ErrFrozen) {
			t.Errorf("Tile(%s) = %v, want ErrFrozen", tile.Path(), err)
		}
	}
	if n := log.Requests("") + shown.Requests("") - before; n != 0 {
		t.Errorf("%d requests while frozen", n)
	}
}

// A fork of which no upstream serves the tiles cannot be proved to be one, and freezes nothing; nor
// does anything that is not signed.
func TestOnlyTheKeyFreezes(t *testing.T) {
	t.Parallel()
	log := newLog(t, 300)
	other := sumdbtest.NewLog(t, "other.example")
	other.Fill(300)
	fork := forkOf(log, 10, 400)
	signedByOther := bytes.ReplaceAll(other.Head(300), []byte("other.example"), []byte(testName))
	heads := map[string][]byte{
		"of another database":    other.Head(300),
		"signed by another key":  signedByOther,
		"of a fork, but altered": bytes.Replace(fork.Head(400), []byte("\n400\n"), []byte("\n401\n"), 1),
		"of a fork, unsigned":    fork.Head(400)[:bytes.LastIndex(fork.Head(400), []byte("— "))],
		"of a fork, no tiles":    fork.Head(400),
		"no tree":                log.Sign("go.sum database forest\n1\nabc\n"),
		"a negative size":        log.Sign("go.sum database tree\n-1\n" + fork.Tree(1).Hash.String() + "\n"),
		"a size beyond all":      log.Sign("go.sum database tree\n9223372036854775807\n" + fork.Tree(1).Hash.String() + "\n"),
		"an impossible tree":     log.Sign("go.sum database tree\n0\n" + fork.Tree(1).Hash.String() + "\n"),
		"HTML":                   []byte("<html>sign in</html>"),
		"nothing":                {},
	}
	for name, head := range heads {
		t.Run(name, func(t *testing.T) {
			evidence := t.TempDir()
			head := head
			shown := false
			fetch := func(ctx context.Context, path string, limit int64) ([]byte, error) {
				if path == "latest" && shown {
					return head, nil
				}
				return log.Fetch(ctx, path, limit)
			}
			m := open(t, log, newStore(t), evidence, fetch)
			refresh(t, m)
			shown = true
			if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrInvalid) {
				t.Errorf("Refresh = %v, want ErrInvalid", err)
			}
			if _, frozen := m.Frozen(); frozen || len(evidenceFiles(t, evidence)) > 0 {
				t.Errorf("frozen; evidence %q", evidenceFiles(t, evidence))
			}
			shown = false
			lookup(t, m, sumdbtest.Filler(200)) // and no error is remembered
		})
	}
}

// Evidence that cannot be written freezes the mirror all the same, until it can be written.
func TestEvidenceCannotBeWritten(t *testing.T) {
	t.Parallel()
	log := newLog(t, 50)
	shown := log
	inTheWay := filepath.Join(t.TempDir(), "evidence")
	m := open(t, log, newStore(t), inTheWay, fetchFrom(&shown))
	refresh(t, m)
	if err := os.WriteFile(inTheWay, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	shown = forkOf(log, 10, 60)
	if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Fatalf("Refresh = %v, want ErrFrozen", err)
	}
	if file, frozen := m.Frozen(); !frozen || file != "" {
		t.Errorf("Frozen = %q, %v, want true without a file", file, frozen)
	}
	if err := m.Recheck(t.Context()); err == nil {
		t.Error("Recheck without a word, where evidence cannot be read or written")
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := m.Recheck(t.Context()); err != nil {
		t.Fatalf("Recheck: %v", err)
	}
	if file, frozen := m.Frozen(); !frozen || file == "" {
		t.Errorf("Frozen = %q, %v, want the file that could be written now", file, frozen)
	}
	checkEvidence(t, log, shown, readEvidence(t, inTheWay), 50, 60)

	// Without a directory, the freeze lasts as long as the process.
	shown = log
	m = open(t, log, newStore(t), "", fetchFrom(&shown))
	refresh(t, m)
	shown = forkOf(log, 10, 60)
	if err := m.Refresh(t.Context()); !errors.Is(err, sumdb.ErrFrozen) {
		t.Errorf("Refresh = %v, want ErrFrozen", err)
	}
	if _, frozen := m.Frozen(); !frozen || m.Recheck(t.Context()) == nil {
		t.Error("thawed by a Recheck, though nobody saw the evidence")
	}
}

// Files about other databases, or of other kinds, freeze nothing.
func TestEvidenceOfOthers(t *testing.T) {
	t.Parallel()
	log := newLog(t, 10)
	evidence := t.TempDir()
	for _, name := range []string{
		"fork-" + testName + "-corp-20260101T000000.000000000Z.txt",
		"fork-other.example-20260101T000000.000000000Z.txt",
		"conflict-" + testName + "-20260101T000000.000000000Z.txt",
		"fork-" + testName + "-20260101T000000.000000000Z.txt.seen",
		"notes.txt",
	} {
		if err := os.WriteFile(filepath.Join(evidence, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := open(t, log, newStore(t), evidence, log.Fetch)
	if file, frozen := m.Frozen(); frozen {
		t.Errorf("frozen by %s", file)
	}
	mine := filepath.Join(evidence, "fork-"+testName+"-20260101T000000Z.txt")
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if file, frozen := open(t, log, newStore(t), evidence, log.Fetch).Frozen(); !frozen || file != mine {
		t.Errorf("Frozen = %q, %v, want %q", file, frozen, mine)
	}
}

// One log has two records of one version.
func TestConflict(t *testing.T) {
	t.Parallel()
	log := newLog(t, 100)
	mod := module.Version{Path: "example.com/moved", Version: "v1.0.0"}
	first := log.Add(mod, sumdbtest.Hash("first"), sumdbtest.Hash("mod"))
	second := log.Add(mod, sumdbtest.Hash("second"), sumdbtest.Hash("mod"))
	same := log.Add(mod, sumdbtest.Hash("first"), sumdbtest.Hash("mod"))
	for _, tt := range []struct {
		name     string
		id       int64
		conflict bool
	}{{"other content", second, true}, {"same content", same, false}} {
		t.Run(tt.name, func(t *testing.T) {
			store, evidence := newStore(t), t.TempDir()
			slow := open(t, log, store, evidence, func(ctx context.Context, path string, limit int64) ([]byte, error) {
				if strings.HasPrefix(path, "lookup/") {
					// While this lookup waits, another mirror stores the first record.
					log.Point(mod, first)
					lookup(t, open(t, log, store, evidence, log.Fetch), mod)
					log.Point(mod, tt.id)
				}
				return log.Fetch(ctx, path, limit)
			})
			record, err := slow.Lookup(t.Context(), mod)
			if tt.conflict {
				if !errors.Is(err, sumdb.ErrInvalid) {
					t.Errorf("Lookup = %v, want ErrInvalid", err)
				}
				text := readEvidence(t, evidence)
				if !strings.Contains(text, sumdbtest.Hash("first")) || !strings.Contains(text, sumdbtest.Hash("second")) {
					t.Errorf("evidence: %s", text)
				}
			} else if err != nil || record.ID != first || len(evidenceFiles(t, evidence)) > 0 {
				t.Errorf("Lookup = %d, %v, want the first record, %d", record.ID, err, first)
			}
			if record := lookup(t, slow, mod); record.ID != first {
				t.Errorf("record %d is held now, want the first, %d", record.ID, first)
			}
		})
	}
}

// An administrator who calls Recheck at the moment of the fork does not thaw the mirror.
func TestRecheckAtTheFork(t *testing.T) {
	t.Parallel()
	for round := range 50 {
		log := newLog(t, 20)
		shown := log
		m := open(t, log, newMemory(t), t.TempDir(), fetchFrom(&shown))
		refresh(t, m)
		shown = forkOf(log, 10, 30)
		ctx, cancel := context.WithCancel(t.Context())
		var looking sync.WaitGroup
		looking.Go(func() {
			for ctx.Err() == nil {
				if err := m.Recheck(t.Context()); err != nil {
					t.Errorf("Recheck: %v", err)
				}
			}
		})
		err := m.Refresh(t.Context())
		cancel()
		looking.Wait()
		if _, frozen := m.Frozen(); !frozen || !errors.Is(err, sumdb.ErrFrozen) {
			t.Fatalf("round %d: frozen is %t after a fork: %v", round, frozen, err)
		}
		m.Close()
	}
}
