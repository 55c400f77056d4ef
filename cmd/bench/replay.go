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
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// replay is an upstream with the files of real modules and a checksum database with their records,
// which answers as if it were far away.
type replay struct {
	url   string
	files string // a directory in the layout of GOPROXY
	sums  string // the go.sum of all files
	log   *sumdbtest.Log
	rtt   atomic.Int64 // round trip to it, in nanoseconds
	http  http.Server

	mu   sync.Mutex
	gets map[string]int // by the kind of file
}

// replayRecords is the size of the database: with this many records, the modules are in different
// tiles, as they are in a real one.
const replayRecords = 300_000

// newReplay starts a replay of the files below a directory, which a go command has downloaded.
func newReplay(host *host, files string) (*replay, error) {
	p := &replay{files: files, log: sumdbtest.NewLog(host, databaseName), gets: map[string]int{}}
	mods, err := p.records()
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
	p.http.Handler = p
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

// records returns the versions below files and writes sums. A version without a zip, which is only
// in the module graph, has an invented hash of it.
func (p *replay) records() (mods []hashed, err error) {
	var sums strings.Builder
	err = filepath.WalkDir(p.files, func(name string, d fs.DirEntry, err error) error {
		dir, file := filepath.Split(strings.TrimPrefix(name, p.files+string(filepath.Separator)))
		version, isMod := strings.CutSuffix(file, ".mod")
		if err != nil || !isMod {
			return err
		}
		path, err := module.UnescapePath(strings.TrimSuffix(filepath.ToSlash(dir), "/@v/"))
		if err != nil {
			return err
		}
		if version, err = module.UnescapeVersion(version); err != nil {
			return err
		}
		mod := hashed{Version: module.Version{Path: path, Version: version}}
		mod.gomod, err = dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return os.Open(name) })
		if err != nil {
			return err
		}
		zip, err := os.ReadFile(strings.TrimSuffix(name, ".mod") + ".ziphash")
		switch {
		case err == nil:
			mod.zip = string(zip)
			fmt.Fprintf(&sums, "%s %s %s\n", path, version, mod.zip)
		case errors.Is(err, fs.ErrNotExist):
			mod.zip = sumdbtest.Hash(path + version)
		default:
			return err
		}
		fmt.Fprintf(&sums, "%s %s/go.mod %s\n", path, version, mod.gomod)
		mods = append(mods, mod)
		return nil
	})
	p.sums = sums.String()
	return mods, err
}

// connected is the key of the value that says whether a connection has had a request.
type connected struct{}

// ServeHTTP answers after a round trip, and two more for a new connection.
func (p *replay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	trips := int64(1)
	if used, ok := r.Context().Value(connected{}).(*atomic.Bool); ok && !used.Swap(true) {
		trips = 3
	}
	time.Sleep(time.Duration(trips * p.rtt.Load()))
	prefix := "/sumdb/" + databaseName
	kind := filepath.Ext(r.URL.Path)
	switch rest, database := strings.CutPrefix(r.URL.Path, prefix+"/"); {
	case rest == "supported":
	case database:
		kind, _, _ = strings.Cut(rest, "/")
		http.StripPrefix(prefix, p.log.Handler()).ServeHTTP(w, r)
	default:
		http.ServeFileFS(w, r, os.DirFS(p.files), strings.TrimPrefix(r.URL.Path, "/"))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gets[kind]++
}

// requests returns the requests since the last call, and their number.
func (p *replay) requests() (byKind map[string]int, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	byKind, p.gets = p.gets, map[string]int{}
	for _, n := range byKind {
		all += n
	}
	return byKind, all
}
