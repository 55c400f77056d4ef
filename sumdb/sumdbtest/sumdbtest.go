// Package sumdbtest is a checksum database for tests: a small log in memory with
// a key of its own, which answers as sum.golang.org would and can be made to
// misbehave. It must not be imported by code that is not a test.
//
// What it says is computed from the records with x/mod's tlog, not with our own
// code, so that the two can be compared.
package sumdbtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/internal/notfound"
)

// T is the part of testing.TB that a Log needs.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Log is a log of modules. All methods may be called at the same time.
type Log struct {
	// OnLookup, if set, is called for a module that has no record yet, before
	// the lookup is answered. It may Add the record. It is set before the log
	// is used.
	OnLookup func(mod module.Version)

	tb     T
	name   string
	key    string
	signer note.Signer

	mu       sync.Mutex // guards what follows
	records  [][]byte
	hashes   []tlog.Hash
	ids      map[module.Version]int64
	latest   int64 // size that /latest shows, or -1 for the newest
	lookup   int64 // size of the heads in lookups, or -1 for the newest
	requests map[string]int
	tamper   func(path string, data []byte, err error) ([]byte, error)
}

// NewLog returns an empty log. Its key depends on name alone, so logs of the
// same name are forks of each other, whatever the test.
func NewLog(tb T, name string) *Log {
	tb.Helper()
	return newLog(tb, name, "sumdbtest "+name)
}

// Rekeyed returns an empty log of the same name with another key.
func (l *Log) Rekeyed() *Log { return newLog(l.tb, l.name, "another key for "+l.name) }

func newLog(tb T, name, secretSeed string) *Log {
	tb.Helper()
	seed := sha256.Sum256([]byte(secretSeed))
	private := ed25519.NewKeyFromSeed(seed[:])
	key, err := note.NewEd25519VerifierKey(name, private.Public().(ed25519.PublicKey))
	if err != nil {
		tb.Fatalf("sumdbtest: key for %q: %v", name, err)
	}
	const ed25519Algorithm = "\x01"
	secret := base64.StdEncoding.EncodeToString(append([]byte(ed25519Algorithm), seed[:]...))
	hash := strings.Split(key, "+")[1]
	signer, err := note.NewSigner("PRIVATE+KEY+" + name + "+" + hash + "+" + secret)
	if err != nil {
		tb.Fatalf("sumdbtest: signer for %q: %v", name, err)
	}
	return &Log{
		tb: tb, name: name, key: key, signer: signer,
		ids: make(map[module.Version]int64), latest: -1, lookup: -1,
		requests: make(map[string]int),
	}
}

// Fork returns a log with the same key and the same first size records, which
// goes its own way from there. Hooks are not copied.
func (l *Log) Fork(size int64) *Log {
	fork := &Log{
		tb: l.tb, name: l.name, key: l.key, signer: l.signer,
		ids: make(map[module.Version]int64), latest: -1, lookup: -1,
		requests: make(map[string]int),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range l.records[:size] {
		fork.AddText(text)
	}
	for mod, id := range l.ids {
		if id < size {
			fork.ids[mod] = id
		}
	}
	return fork
}

// Name is the name of the database.
func (l *Log) Name() string { return l.name }

// Key is the verifier key, as GOSUMDB takes it.
func (l *Log) Key() string { return l.key }

// Hash returns a well-formed h1 hash that is made from seed.
func Hash(seed string) string {
	sum := sha256.Sum256([]byte(seed))
	return "h1:" + base64.StdEncoding.EncodeToString(sum[:])
}

// Text is the record of mod: its two lines of a go.sum file.
func Text(mod module.Version, zipHash, modHash string) []byte {
	return fmt.Appendf(nil, "%s %s %s\n%s %s/go.mod %s\n",
		mod.Path, mod.Version, zipHash, mod.Path, mod.Version, modHash)
}

// Add appends the record of mod and returns its id. A later lookup finds the
// record that was added last.
func (l *Log) Add(mod module.Version, zipHash, modHash string) int64 {
	return l.add(Text(mod, zipHash, modHash), &mod)
}

// AddText appends any record; no lookup finds it.
func (l *Log) AddText(text []byte) int64 { return l.add(text, nil) }

// Fill appends records of modules that do not matter until there are size of
// them. The record id is that of Filler(id).
func (l *Log) Fill(size int64) {
	for l.Size() < size {
		mod := Filler(l.Size())
		l.Add(mod, Hash(mod.Path), Hash(mod.Path+"/go.mod"))
	}
}

// Filler is the module that Fill puts into record id.
func Filler(id int64) module.Version {
	return module.Version{Path: fmt.Sprintf("filler.example/m%d", id), Version: "v1.0.0"}
}

func (l *Log) add(text []byte, mod *module.Version) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := int64(len(l.records))
	hashes, err := tlog.StoredHashes(id, text, hashReader(l.hashes))
	if err != nil {
		l.tb.Errorf("sumdbtest: record %d: %v", id, err)
		return -1
	}
	l.records = append(l.records, bytes.Clone(text))
	l.hashes = append(l.hashes, hashes...)
	if mod != nil {
		l.ids[*mod] = id
	}
	return id
}

// Point makes lookups of mod answer with record id, whatever that is of.
func (l *Log) Point(mod module.Version, id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ids[mod] = id
}

// Size is the number of records.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.records))
}

// Tree is the tree of the first size records.
func (l *Log) Tree(size int64) tlog.Tree {
	l.mu.Lock()
	defer l.mu.Unlock()
	hash, err := tlog.TreeHash(size, hashReader(l.hashes))
	if err != nil {
		l.tb.Errorf("sumdbtest: tree of size %d: %v", size, err)
	}
	return tlog.Tree{N: size, Hash: hash}
}

// Head is the signed tree head of the first size records.
func (l *Log) Head(size int64) []byte { return l.Sign(string(tlog.FormatTree(l.Tree(size)))) }

// Sign signs any text with the key of the database.
func (l *Log) Sign(text string) []byte {
	msg, err := note.Sign(&note.Note{Text: text}, l.signer)
	if err != nil {
		l.tb.Errorf("sumdbtest: sign: %v", err)
	}
	return msg
}

// ShowLatest makes latest answer with the head of size, as one that lags does;
// -1 is the newest.
func (l *Log) ShowLatest(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest = size
}

// ShowLookup makes lookups carry the head of size, as those from a cache do;
// -1 is the newest.
func (l *Log) ShowLookup(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lookup = size
}

// Requests is the number of answers so far to paths that begin with prefix.
func (l *Log) Requests(prefix string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for path, count := range l.requests {
		if strings.HasPrefix(path, prefix) {
			n += count
		}
	}
	return n
}

// ServeFile answers latest, lookup/... and tile/..., without a leading slash.
// The error is fs.ErrNotExist for everything else and for what the log does not
// have.
func (l *Log) ServeFile(path string) ([]byte, error) {
	l.mu.Lock()
	l.requests[path]++
	l.mu.Unlock()
	data, err := l.answer(path)
	l.mu.Lock()
	tamper := l.tamper
	l.mu.Unlock()
	if tamper != nil {
		return tamper(path, data, err)
	}
	return data, err
}

// Tamper makes f decide what ServeFile answers in the place of the true answer,
// which it is given and must not change. A nil f tampers with nothing.
func (l *Log) Tamper(f func(path string, data []byte, err error) ([]byte, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tamper = f
}

// Fetch is ServeFile as a sumdb.FetchFunc.
func (l *Log) Fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := l.ServeFile(path)
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return data, err
}

// Handler serves the log as the root of a host.
func (l *Log) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := l.ServeFile(strings.TrimPrefix(r.URL.Path, "/"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			http.Error(w, err.Error(), http.StatusNotFound)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
			w.Write(data)
		}
	})
}

func (l *Log) answer(path string) ([]byte, error) {
	if path == "latest" {
		return l.Head(l.shown(&l.latest)), nil
	}
	if mod, ok := strings.CutPrefix(path, "lookup/"); ok {
		return l.answerLookup(mod)
	}
	tile, err := tlog.ParseTilePath(path)
	if err != nil || tile.H != 8 {
		return nil, fmt.Errorf("%s: %w", path, notfound.Stated)
	}
	return l.Tile(tile)
}

// shown is the size to show, which is one of l.latest and l.lookup.
func (l *Log) shown(size *int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if *size < 0 {
		return int64(len(l.records))
	}
	return *size
}

func (l *Log) answerLookup(escaped string) ([]byte, error) {
	escapedPath, escapedVersion, _ := strings.Cut(escaped, "@")
	path, err1 := module.UnescapePath(escapedPath)
	version, err2 := module.UnescapeVersion(escapedVersion)
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("lookup/%s: %w", escaped, notfound.Stated)
	}
	mod := module.Version{Path: path, Version: version}
	id, text, ok := l.find(mod)
	if !ok && l.OnLookup != nil {
		l.OnLookup(mod)
		id, text, ok = l.find(mod)
	}
	if !ok {
		return nil, fmt.Errorf("not found: %s: unknown revision: %w", mod, notfound.Stated)
	}
	msg, err := tlog.FormatRecord(id, text)
	if err != nil {
		return nil, err
	}
	return append(msg, l.Head(l.shown(&l.lookup))...), nil
}

func (l *Log) find(mod module.Version) (id int64, text []byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, ok = l.ids[mod]
	if !ok {
		return 0, nil, false
	}
	return id, l.records[id], true
}

// Tile returns a hash tile or, with L = -1, a data tile. The error is
// fs.ErrNotExist if the log has not grown that far.
func (l *Log) Tile(tile tlog.Tile) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	level := max(tile.L, 0)
	end := tile.N<<8 + int64(tile.W)
	if 8*level > 40 || end > int64(len(l.records))>>(8*level) {
		return nil, fmt.Errorf("%s: %w", tile.Path(), notfound.Stated)
	}
	if tile.L >= 0 {
		return tlog.ReadTileData(tile, hashReader(l.hashes))
	}
	var data []byte
	for id := tile.N << 8; id < end; id++ {
		data = append(data, l.records[id]...)
		data = append(data, '\n')
	}
	return data, nil
}

// hashReader is a tlog.HashReader on the stored hashes of a log.
type hashReader []tlog.Hash

func (h hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index < 0 || index >= int64(len(h)) {
			return nil, fmt.Errorf("no hash %d in a log of %d hashes", index, len(h))
		}
		hashes[i] = h[index]
	}
	return hashes, nil
}
