package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// churnContents are the contents of the churn: most are inline, the others blobs of one or of
// several segments; some keys have equal contents.
type churnContents [12][]byte

func newChurnContents() *churnContents {
	var c churnContents
	for i := range c {
		size := []int{10, 3000, 32 << 10, 33 << 10, 300_000, 5 << 20}[i%6]
		c[i] = storagetest.Content(uint64(i), size)
	}
	return &c
}

// of returns the content of a key.
func (c *churnContents) of(key string) []byte {
	n, _ := strconv.Atoi(key[strings.LastIndexByte(key, '/')+1:])
	return c[n%len(c)]
}

// churnStore creates and deletes until it is killed, and prints the results: "+ key" when a
// creation was acknowledged, "? key" before it deletes, "- key" after that.
func churnStore(dir string) error {
	db, err := bolt.Open(dir, nil)
	if err != nil {
		return err
	}
	if rand.N(2) == 0 { // merges in the middle of everything
		db.SmallLimits()
	}
	return churn(context.Background(), db, sayChange)
}

// sayChange prints a line. Lines are short, so that each write is atomic.
func sayChange(what, key string) { fmt.Fprintf(os.Stdout, "%s %s\n", what, key) }

// churn creates and deletes until ctx ends or an operation fails.
func churn(ctx context.Context, db *bolt.DB, say func(what, key string)) error {
	contents := newChurnContents()
	const workers = 6
	ended := make(chan error, workers)
	for w := range workers {
		go func() {
			random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(w)))
			var err error
			for err == nil && ctx.Err() == nil {
				key := fmt.Sprintf("worker%d/%d", w, random.IntN(30))
				err = churnKey(db, key, contents.of(key), say)
				if err == nil {
					err = db.SetState(context.Background(), fmt.Sprintf("state%d", w), []byte(key))
				}
			}
			ended <- err
		}()
	}
	var err error
	for range workers {
		if err = errors.Join(err, <-ended); err != nil {
			return err
		}
	}
	return nil
}

// draftOf is Create by a draft.
func draftOf(ctx context.Context, db *bolt.DB, info storage.Info, r io.Reader) error {
	d, err := db.Draft(ctx, -1)
	if err != nil {
		return err
	}
	if _, err = io.Copy(d, r); err == nil {
		err = d.Commit(ctx, info)
	}
	return errors.Join(err, d.Close())
}

// churnKey creates the object, or deletes it if it exists.
func churnKey(db *bolt.DB, key string, content []byte, say func(what, key string)) error {
	info := storage.Info{Key: key, Size: int64(len(content))}
	create := db.Create
	if strings.HasSuffix(key, "1") || strings.HasSuffix(key, "5") { // of all sizes
		create = func(ctx context.Context, info storage.Info, r io.Reader) error { return draftOf(ctx, db, info, r) }
	}
	err := create(context.Background(), info, bytes.NewReader(content))
	switch {
	case err == nil:
		say("+", key)
		return nil
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	say("?", key)
	if err := db.Delete(context.Background(), key); err != nil {
		return err
	}
	say("-", key)
	return nil
}

// killed runs a helper on dir, kills it a moment after it has printed the given number of lines
// that count, and returns their number.
func killed(t *testing.T, helper, dir string, after int, hear func(line string) (counts bool)) (heard int) {
	t.Helper()
	cmd := helperCommand(t, helper, dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if !hear(lines.Text()) {
			continue
		}
		if heard++; heard == after { // a moment later it is in the middle of the next operations
			time.AfterFunc(rand.N(10*time.Millisecond), func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // it was killed
	return heard
}

// If a process is killed at any moment, all acknowledged objects are in the store, byte for byte,
// no others are, and no temporary data is left.
func TestKilled(t *testing.T) {
	t.Parallel()
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	dir := t.TempDir()
	state := map[string]string{} // key → "+", "-", or "?" for a deletion that was not acknowledged
	contents := newChurnContents()
	operations := 0
	for round := range rounds {
		operations += killed(t, "churn", dir, 10+6*round, func(line string) bool {
			if what, key, ok := strings.Cut(line, " "); ok {
				state[key] = what
			}
			return true
		})
		checkStore(t, dir, contents.of, state)
	}
	if operations < rounds*10 {
		t.Errorf("only %d operations, which proves nothing", operations)
	}
	t.Logf("%d operations in %d lives", operations, rounds)
}

// checkStore checks a store after a kill, or a backup: each object has its expected content, the
// acknowledged ones exist, and no temporary data is left. Then it sets state to the found objects.
func checkStore(t *testing.T, dir string, content func(key string) []byte, state map[string]string) {
	t.Helper()
	db := openDB(t, dir)
	defer db.Close()
	there := map[string]bool{}
	for info, err := range db.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		there[info.Key] = true
		o, err := db.Open(t.Context(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(o)
		if err != nil || !bytes.Equal(got, content(info.Key)) {
			t.Errorf("%s: other bytes, or %v", info.Key, err)
		}
		o.Close()
	}
	for key, what := range state {
		if what == "+" && !there[key] {
			t.Errorf("%s was acknowledged and is not there", key)
		}
	}
	waitNoOrphans(t, db)
	if _, found := verify(t, db, false); found != nil {
		t.Errorf("found %v", found)
	}
	// A change that was not acknowledged may have happened or not; from now on its result is known.
	clear(state)
	for key := range there {
		state[key] = "+"
	}
	s, err := db.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.FileBytes > 400<<20 {
		t.Errorf("%d MB of files for %d MB of objects", s.FileBytes>>20, s.Bytes>>20)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.new"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
