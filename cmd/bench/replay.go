package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// replay is an upstream with the files of real modules and a checksum database with their records,
// which answers as if it were far away.
type replay struct {
	recorder
	url   string
	files string // a directory in the layout of GOPROXY
	log   *sumdbtest.Log
	rtt   atomic.Int64 // round trip to it, in nanoseconds
	link  link         // to it; changed only between measures
	http  http.Server
}

// replayRecords is the size of the database: with this many records, the modules are in different
// tiles, as they are in a real one.
const replayRecords = 300_000

// newReplay starts a replay of the files below a directory, which a go command has downloaded.
func newReplay(host *host, files string) (*replay, error) {
	p := &replay{files: files, log: sumdbtest.NewLog(host, databaseName)}
	p.recorder.next = http.HandlerFunc(p.answer)
	if err := complete(files); err != nil {
		return nil, err
	}
	mods, err := hashes(files)
	if err != nil {
		return nil, err
	}
	for _, mod := range mods {
		for range replayRecords / len(mods) {
			p.log.AddText([]byte("filler"))
		}
		p.log.Add(mod.Version, mod.zip, mod.gomod)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.url = "http://" + listener.Addr().String()
	p.http.Handler = &p.recorder
	p.http.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, connected{}, new(atomic.Bool))
	}
	go func() { _ = p.http.Serve(listener) }() // ends with the process
	return p, nil
}

// hashed is a version with its hashes.
type hashed struct {
	module.Version
	zip, gomod string
}

// hashes returns the versions below a directory in the layout of GOPROXY. A version without a zip,
// which is only in the module graph, has none of its hash.
func hashes(files string) (mods []hashed, err error) {
	err = filepath.WalkDir(files, func(name string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".mod" {
			return err
		}
		mod, err := hashesOf(strings.TrimPrefix(name, files+string(filepath.Separator)), strings.TrimSuffix(name, ".mod"))
		mods = append(mods, mod)
		return err
	})
	return mods, err
}

// hashesOf returns the hashes of a version. relative is the path of its go.mod, base that of its
// files without their suffixes.
func hashesOf(relative, base string) (mod hashed, err error) {
	dir, file := filepath.Split(relative)
	if mod.Path, err = module.UnescapePath(strings.TrimSuffix(filepath.ToSlash(dir), "/@v/")); err != nil {
		return mod, err
	}
	if mod.Version.Version, err = module.UnescapeVersion(strings.TrimSuffix(file, ".mod")); err != nil {
		return mod, err
	}
	mod.gomod, err = dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return os.Open(base + ".mod") })
	if err != nil {
		return mod, err
	}
	zip, err := os.ReadFile(base + ".ziphash")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return mod, err
	}
	mod.zip = strings.TrimSpace(string(zip))
	return mod, nil
}

// completedSize is about the size of a zip that stands for a real one.
const completedSize = 100_000

// complete adds the files of versions of which the go command had only the go.mod, which were not
// selected: other proxies fetch them, and a prediction may. Their zips are not the real ones.
func complete(files string) error {
	mods, err := hashes(files)
	if err != nil {
		return err
	}
	for _, mod := range mods {
		if mod.zip != "" {
			continue
		}
		if err := completeOne(files, mod.Version); err != nil {
			return err
		}
	}
	return nil
}

func completeOne(files string, mod module.Version) error {
	base, err := module.EscapePath(mod.Path)
	if err != nil {
		return err
	}
	version, err := module.EscapeVersion(mod.Version)
	if err != nil {
		return err
	}
	base = filepath.Join(files, filepath.FromSlash(base), "@v", version)
	gomod, err := os.ReadFile(base + ".mod")
	if err != nil {
		return err
	}
	if err := writeZip(base+".zip", mod.String()+"/", string(gomod), completedSize); err != nil {
		return err
	}
	if _, err := os.Stat(base + ".info"); errors.Is(err, fs.ErrNotExist) {
		err = os.WriteFile(base+".info", []byte(`{"Version":"`+mod.Version+`","Time":"2026-01-02T03:04:05Z"}`), 0o644)
		if err != nil {
			return err
		}
	}
	sum, err := dirhash.HashZip(base+".zip", dirhash.Hash1)
	if err != nil {
		return err
	}
	return os.WriteFile(base+".ziphash", []byte(sum), 0o644)
}

// goSum returns the go.sum of versions.
func goSum(mods []hashed) string {
	var sums strings.Builder
	for _, mod := range mods {
		if mod.zip != "" {
			fmt.Fprintf(&sums, "%s %s %s\n", mod.Path, mod.Version.Version, mod.zip)
		}
		fmt.Fprintf(&sums, "%s %s/go.mod %s\n", mod.Path, mod.Version.Version, mod.gomod)
	}
	return sums.String()
}

// connected is the key of the value that says whether a connection has had a request.
type connected struct{}

// answer answers after a round trip, and two more for a new connection.
func (p *replay) answer(w http.ResponseWriter, r *http.Request) {
	trips := int64(1)
	if used, ok := r.Context().Value(connected{}).(*atomic.Bool); ok && !used.Swap(true) {
		trips = 3
	}
	time.Sleep(time.Duration(trips * p.rtt.Load()))
	w = p.link.limited(w)
	prefix := "/sumdb/" + databaseName
	rest, database := strings.CutPrefix(r.URL.Path, prefix+"/")
	mod, latest := strings.CutSuffix(r.URL.Path, "/@latest")
	switch {
	case rest == "supported":
	case database:
		http.StripPrefix(prefix, p.log.Handler()).ServeHTTP(w, r)
	case latest:
		http.ServeFileFS(w, r, os.DirFS(p.files), p.latest(strings.TrimPrefix(mod, "/")))
	default:
		http.ServeFileFS(w, r, os.DirFS(p.files), strings.TrimPrefix(r.URL.Path, "/"))
	}
}

// latest returns the name of the newest .info file of a module, or of a file that does not exist: a
// go command keeps no file with the response for the newest version.
func (p *replay) latest(mod string) string {
	dir := mod + "/@v/"
	names, _ := fs.Glob(os.DirFS(p.files), dir+"*.info") // the pattern is correct
	newest := "none"
	for _, name := range names {
		version := strings.TrimSuffix(strings.TrimPrefix(name, dir), ".info")
		if semver.Compare(version, newest) > 0 {
			newest = version
		}
	}
	return dir + newest + ".info"
}
