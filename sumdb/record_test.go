package sumdb_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

func checkInvalid(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, sumdb.ErrInvalid) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrInvalid and not fs.ErrNotExist", err)
	}
}

// A lookup refuses everything but the record of exactly the requested module, in the tree at
// exactly its id. The next response is checked without regard to the refused one.
func TestRecordTrouble(t *testing.T) {
	t.Parallel()
	log := newLog(t, 300)
	mod := sumdbtest.Filler(100)
	other := sumdbtest.Filler(101)
	line := strings.SplitAfter(string(sumdbtest.Text(mod, sumdbtest.Hash(mod.Path), sumdbtest.Hash(mod.Path+"/go.mod"))), "\n")
	// Records that are in the log, but are not records of mod.
	odd := map[string]int64{
		"foreign record":    101,
		"one line":          log.AddText([]byte(line[0])),
		"the other line":    log.AddText([]byte(line[1])),
		"three lines":       log.AddText([]byte(line[0] + line[1] + line[1])),
		"lines in disorder": log.AddText([]byte(line[1] + line[0])),
		"a line of another": log.AddText([]byte(line[0] + other.Path + " v1.0.0/go.mod " + sumdbtest.Hash("x") + "\n")),
		"another version":   log.AddText([]byte(strings.ReplaceAll(line[0]+line[1], "v1.0.0", "v1.0.1"))),
		"another case":      log.AddText([]byte(strings.ReplaceAll(line[0]+line[1], "filler", "Filler"))),
		"another hash":      log.AddText([]byte(strings.ReplaceAll(line[0]+line[1], "h1:", "h2:"))),
		"a short hash":      log.AddText([]byte(line[0][:len(line[0])-6] + "\n" + line[1])),
		"not base64":        log.AddText([]byte(strings.ReplaceAll(line[0], "=", "!") + line[1])),
		"trailing space":    log.AddText([]byte(strings.ReplaceAll(line[0], "=\n", "= \n") + line[1])),
	}
	answers := make(map[string][]byte)
	for name, id := range odd {
		log.Point(mod, id)
		answers[name], _ = log.ServeFile("lookup/" + mod.Path + "@" + mod.Version)
	}
	log.Point(mod, 100)
	good, _ := log.ServeFile("lookup/" + mod.Path + "@" + mod.Version)
	_, text, head, err := tlog.ParseRecord(good)
	if err != nil {
		t.Fatal(err)
	}
	reply := func(id any, text []byte, head []byte) []byte {
		return append(fmt.Appendf(nil, "%v\n%s\n", id, text), head...)
	}
	altered := sumdbtest.Text(mod, sumdbtest.Hash("altered"), sumdbtest.Hash(mod.Path+"/go.mod"))
	answers["altered record"] = reply(100, altered, head)
	answers["swapped id"] = reply(101, text, head)
	answers["id beyond the head"] = reply(log.Size(), text, head)
	answers["id far beyond the head"] = reply(int64(1)<<62, text, head)
	answers["negative id"] = reply(-1, text, head)
	answers["no id"] = append(bytes.Clone(text), head...)
	answers["id is no number"] = reply("x", text, head)
	answers["no head"] = reply(100, text, nil)
	answers["no blank line"] = append(fmt.Appendf(nil, "100\n%s", text), head...)
	answers["more before the head"] = reply(100, text, append([]byte(line[0]+"\n"), head...))
	answers["cut"] = good[:len(good)-20]
	answers["empty"] = nil
	answers["HTML"] = []byte("<html>please sign in</html>")
	answers["control characters"] = reply(100, []byte(line[0]+"\x00\n"), head)
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			store := newStore(t)
			m := open(t, log, store, t.TempDir(), log.Fetch)
			log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
				if strings.HasPrefix(path, "lookup/") {
					return answer, nil
				}
				return data, err
			})
			record, err := m.Lookup(t.Context(), mod)
			if err == nil {
				t.Errorf("Lookup = %d %q", record.ID, record.Text)
			}
			checkInvalid(t, err)
			if n := counter(t, m, "assay_sumdb_lookups_total", "refused"); n != 1 {
				t.Errorf("%v refused lookups counted", n)
			}
			log.Tamper(nil)
			if _, err := m.Held(t.Context(), mod); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Held = %v, want fs.ErrNotExist", err)
			}
			checkStore(t, store, log)
			lookup(t, m, mod)
			if _, frozen := m.Frozen(); frozen {
				t.Error("frozen by a record")
			}
		})
	}
}

// A failure of upstream is not remembered, and never becomes an absence.
func TestUpstreamTrouble(t *testing.T) {
	t.Parallel()
	log := newLog(t, 300)
	trouble := errors.New("503 service unavailable")
	for _, what := range []string{"lookup/", "latest", "tile/8/0/", "tile/8/1/", "tile/"} {
		for name, fault := range map[string]error{"trouble": trouble, "absent": fs.ErrNotExist} {
			if what == "lookup/" && fault == fs.ErrNotExist {
				continue // these mean absence
			}
			t.Run(what+" "+name, func(t *testing.T) {
				m := open(t, log, newStore(t), "", log.Fetch)
				log.Tamper(func(path string, data []byte, err error) ([]byte, error) {
					if strings.HasPrefix(path, what) {
						return nil, fault
					}
					return data, err
				})
				errs := []error{
					m.Refresh(t.Context()),
					second(m.Lookup(t.Context(), sumdbtest.Filler(7))),
					second(m.Tile(t.Context(), tlog.Tile{H: 8, L: 0, N: 0, W: 256})),
				}
				failed := 0
				for i, err := range errs {
					if err != nil {
						failed++
					}
					if errors.Is(err, fs.ErrNotExist) {
						t.Errorf("call %d: %v is absence", i, err)
					}
					if err != nil && fault == trouble && !errors.Is(err, trouble) {
						t.Errorf("call %d: %v hides its cause", i, err)
					}
				}
				if failed == 0 {
					t.Error("no call failed")
				}
				log.Tamper(nil)
				refresh(t, m)
				lookup(t, m, sumdbtest.Filler(7))
			})
		}
	}
}

func TestHashes(t *testing.T) {
	t.Parallel()
	mod := module.Version{Path: "example.com/m", Version: "v1.0.0"}
	zip, gomod := sumdbtest.Hash("zip"), sumdbtest.Hash("mod")
	record := sumdb.Record{ID: 3, Text: sumdbtest.Text(mod, zip, gomod)}
	gotZip, gotMod, err := record.Hashes(mod)
	if err != nil || gotZip != zip || gotMod != gomod {
		t.Errorf("Hashes = %q, %q, %v", gotZip, gotMod, err)
	}
	for _, other := range []module.Version{
		{Path: "example.com/m", Version: "v1.0.1"}, {Path: "example.com/M", Version: "v1.0.0"}, {Path: "example.com", Version: "v1.0.0"}, {},
	} {
		_, _, err := record.Hashes(other)
		checkInvalid(t, err)
	}
	_, _, err = sumdb.Record{}.Hashes(mod)
	checkInvalid(t, err)
}
