package pinlog_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// childTask is the environment variable that makes a test binary the child of a test. It has the
// child's task and arguments.
const childTask = "ASSAY_LOG_CHILD"

// startChild runs this test binary again, with test alone.
func startChild(t *testing.T, test string, task ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+test+"$", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), childTask+"="+strings.Join(task, "\n"))
	return cmd
}

// childArgs returns the task of startChild, nil if this process is not a child.
func childArgs() []string {
	if task := os.Getenv(childTask); task != "" {
		return strings.Split(task, "\n")
	}
	return nil
}

// shown is what a log has shown to clients.
type shown struct {
	pinned map[int64]bool
	heads  map[string]bool
}

// A process that is killed while it appends loses no entry that it acknowledged, and its heads are
// heads of one log.
func TestLogKill(t *testing.T) {
	t.Parallel()
	if args := childArgs(); args != nil {
		pinForEver(t, args)
		return
	}
	const rounds = 16
	dir := t.TempDir()
	c := pinlog.Config{Dir: filepath.Join(dir, "log"), Name: logName, Guard: filepath.Join(dir, "guard")}
	all := shown{make(map[int64]bool), make(map[string]bool)}
	for round := range rounds {
		// The first processes are killed while they open the log, or create it, and the others while they
		// append, however fast this machine is.
		entries := 0
		if round >= rounds/4 {
			entries = 8 + rand.IntN(40)
		}
		appendAndKill(t, c, round, entries, &all)
		l, err := pinlog.Open(t.Context(), c)
		if err != nil {
			t.Fatalf("round %d: Open: %v", round, err)
		}
		checkKilled(t, l, c, all)
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.Logf("%d entries and %d heads were shown", len(all.pinned), len(all.heads))
	if len(all.pinned) < rounds || len(all.heads) < rounds {
		t.Errorf("only %d entries and %d heads were shown", len(all.pinned), len(all.heads))
	}
}

// appendAndKill starts a process that appends, kills it a moment after it has shown a number of entries,
// and records its output.
func appendAndKill(t *testing.T, c pinlog.Config, round, entries int, all *shown) {
	t.Helper()
	cmd := startChild(t, "TestLogKill", c.Dir, c.Guard, strconv.Itoa(round))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	kill := func() {
		time.AfterFunc(time.Duration(rand.IntN(5000))*time.Microsecond, func() { cmd.Process.Kill() })
	}
	for pinned := 0; ; {
		line, err := in.ReadString('\n')
		if err != nil {
			break // a line without an end counts as not written
		}
		what, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch what {
		case "opens":
			if entries == 0 {
				kill()
			}
		case "pinned":
			if pinned++; pinned == entries {
				kill()
			}
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				t.Fatalf("the child said %q", line)
			}
			all.pinned[n] = true
		case "head":
			head, err := hex.DecodeString(value)
			if err != nil {
				t.Fatalf("the child said %q", line)
			}
			all.heads[string(head)] = true
		default:
			t.Fatalf("the child said %q", line)
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
}

// pinForEver is the child: it appends as fast as it can, and prints each acknowledged entry and
// each head.
func pinForEver(t *testing.T, args []string) {
	round, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("opens\n")
	l := openLog(t, pinlog.Config{Dir: args[0], Name: logName, Guard: args[1]})
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stdout, format+"\n", args...)
	}
	var group sync.WaitGroup
	for first := range int64(4) {
		group.Go(func() {
			for n := round*100_000 + first; ; n += 4 {
				if _, err := l.Pin(context.Background(), entry(n)); err != nil {
					say("error %v", err)
					return
				}
				say("pinned %d", n)
				head, err := l.Latest(context.Background())
				if err != nil {
					say("error %v", err)
					return
				}
				say("head %x", head)
			}
		})
	}
	group.Wait()
}

// checkKilled compares l with the recorded output.
func checkKilled(t *testing.T, l *pinlog.Log, c pinlog.Config, all shown) {
	t.Helper()
	if err := l.Refuses(); err != nil {
		t.Fatalf("the log refuses: %v", err)
	}
	for n := range all.pinned {
		want := entry(n)
		if got, err := l.Find(t.Context(), want.Module); err != nil || got.Zip != want.Zip || got.Mod != want.Mod || got.Origin != want.Origin {
			t.Errorf("entry %d was acknowledged, and is %+v, %v", n, got, err)
		}
	}
	for _, head := range headsOnDisk(t, c.Dir) {
		all.heads[head] = true
	}
	all.heads[string(latest(t, l))] = true
	checkPrefixes(t, l, c.Dir, all.heads)
	if err := l.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// checkPrefixes computes with x/mod from the file of entries that each of heads is a head of a
// prefix of the log, and that the log serves these entries.
func checkPrefixes(t testing.TB, l *pinlog.Log, dir string, heads map[string]bool) {
	t.Helper()
	records := recordsOnDisk(t, dir)
	var hashes storedHashes
	for id, record := range records {
		stored, err := tlog.StoredHashes(int64(id), record, hashes)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, stored...)
	}
	if l.Size() != int64(len(records)) {
		t.Errorf("Size = %d, there are %d entries on disk", l.Size(), len(records))
	}
	for head := range heads {
		tree := treeOf(t, l.Key(), []byte(head))
		if tree.N > int64(len(records)) {
			t.Errorf("a head of %d entries was signed, there are %d", tree.N, len(records))
		} else if root, err := tlog.TreeHash(tree.N, hashes); err != nil || root != tree.Hash {
			t.Errorf("a head of %d entries was signed with the root %v, now it is %v (%v)", tree.N, tree.Hash, root, err)
		}
	}
	for _, tile := range tlog.NewTiles(8, 0, int64(len(records))) {
		want, err := tlog.ReadTileData(tile, hashes)
		if got, err2 := l.Tile(t.Context(), tile); err != nil || err2 != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not that of the entries on disk: %v, %v", tile.Path(), err, err2)
		}
	}
}

type storedHashes []tlog.Hash

func (s storedHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = s[index]
	}
	return hashes, nil
}

// framesOnDisk splits the file of entries by the lengths in it alone.
func framesOnDisk(t testing.TB, dir string) (frames [][]byte) {
	t.Helper()
	data := readFile(t, filepath.Join(dir, "entries"))
	for len(data) > 0 {
		var length, sum int
		if _, err := fmt.Sscanf(string(data[:24]), "entry %08x %08x\n", &length, &sum); err != nil || len(data) < 24+length {
			t.Fatalf("entries: %.40q: %v", data, err)
		}
		frames = append(frames, data[:24+length])
		data = data[24+length:]
	}
	return frames
}

// recordsOnDisk returns the text after the blank line of each entry.
func recordsOnDisk(t testing.TB, dir string) (records [][]byte) {
	t.Helper()
	for _, frame := range framesOnDisk(t, dir) {
		_, record, _ := bytes.Cut(frame, []byte("\n\n"))
		records = append(records, record)
	}
	return records
}

// headsOnDisk splits the file of heads.
func headsOnDisk(t testing.TB, dir string) (heads []string) {
	t.Helper()
	const start = "go.sum database tree\n"
	for _, rest := range strings.Split(string(readFile(t, filepath.Join(dir, "heads"))), start)[1:] {
		heads = append(heads, start+rest)
	}
	return heads
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A process that reads the files while another one appends sees a consistent log at every moment.
func TestLogReadWhileAppended(t *testing.T) {
	t.Parallel()
	const size = 60
	c := newGuardedLog(t, 1)
	l := openLog(t, c)
	var group sync.WaitGroup
	for first := range int64(2) {
		group.Go(func() {
			for n := first; n < size; n += 2 {
				if _, err := l.Pin(context.Background(), entry(n)); err != nil {
					t.Errorf("Pin(%d): %v", n, err)
				}
			}
		})
	}
	c.ReadOnly = true
	for l.Size() < size && !t.Failed() {
		reader, err := pinlog.Open(t.Context(), c)
		if err != nil {
			t.Errorf("Open: %v", err)
			break
		}
		if err := errors.Join(reader.Refuses(), reader.Check(t.Context()), l.Check(t.Context()), reader.Close()); err != nil {
			t.Errorf("read while others append: %v", err)
		}
	}
	group.Wait()
}
