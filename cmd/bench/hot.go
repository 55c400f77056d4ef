package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// hotSmall compares the requests per second for a small object that is requested again and again,
// each server alone on one core.
func (b *bench) hotSmall(suffix string, againstAthens bool) (result, error) {
	if _, err := exec.LookPath("wrk"); err != nil {
		return result{}, err
	}
	u, err := b.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	path, err := u.add("bench.example/hot", 100_000)
	if err != nil {
		return result{}, err
	}
	ours, err := b.filled(true, u, path+suffix)
	if err != nil {
		return result{}, err
	}
	defer ours.stop()

	var theirs *process
	goal := 4.0
	if againstAthens {
		theirs, err = b.startAthens(u, path, suffix)
	} else {
		goal = 0.75
		theirs, err = b.startCopy(ours, path+suffix)
	}
	if err != nil {
		return result{}, err
	}
	defer theirs.stop()
	r, err := pairs(b.rounds,
		func() (float64, error) { return b.wrk(ours.url + path + suffix) },
		func() (float64, error) { return b.wrk(theirs.url + path + suffix) })
	if err != nil {
		return result{}, err
	}
	return r.atLeast(goal), nil
}

// hotFiles measures files other than small ones of modules.
type hotFiles struct{ *bench }

// database compares the requests per second for a file of the checksum database that is requested
// again and again, each server alone on one core. name returns its path below that of the database.
func (h hotFiles) database(name func(modulePath string) string, goal float64) (result, error) {
	u, err := h.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	database := "/sumdb/" + databaseName
	var fill []string
	for i := range 300 { // so that there is a full tile
		module := fmt.Sprintf("bench.example/hot%d", i)
		if _, err := u.add(module, 100); err != nil {
			return result{}, err
		}
		fill = append(fill, database+lookupName(module))
	}
	path := database + name("bench.example/hot7")
	ours, err := h.filled(true, u, append(fill, path)...)
	if err != nil {
		return result{}, err
	}
	defer ours.stop()
	theirs, err := h.startCopy(ours, path)
	if err != nil {
		return result{}, err
	}
	defer theirs.stop()
	r, err := pairs(h.rounds,
		func() (float64, error) { return h.wrk(ours.url + path) },
		func() (float64, error) { return h.wrk(theirs.url + path) })
	if err != nil {
		return result{}, err
	}
	return r.atLeast(goal), nil
}

func lookupName(modulePath string) string { return "/lookup/" + modulePath + "@v1.0.0" }
func tileName(string) string              { return "/tile/8/0/000" }

// smallZip compares the requests per second for a zip of 27 KB, each server alone on one core.
func (h hotFiles) smallZip() (result, error) {
	return h.file(27_000, 1.2, true, func(url string) (float64, error) { return h.wrk(url) })
}

// largeZip compares the requests per second for a zip of 60 MB by four clients, with all
// processors for each server and the clients.
func (h hotFiles) largeZip() (result, error) {
	return h.file(60_000_000, 1, false, func(url string) (float64, error) { return requests(h.ctx, url, h.slice, "wrk", "-t2", "-c4") })
}

// file compares a hot zip of a size with http.ServeContent of the file.
func (h hotFiles) file(size int, goal float64, oneCore bool, measure func(url string) (float64, error)) (result, error) {
	u, err := h.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	path, err := u.add("bench.example/file", size)
	if err != nil {
		return result{}, err
	}
	path += ".zip"
	ours, err := h.filled(oneCore, u, path)
	if err != nil {
		return result{}, err
	}
	defer ours.stop()
	theirs, err := h.startBase(oneCore, spec{Path: path, File: filepath.Join(u.dir, path)})
	if err != nil {
		return result{}, err
	}
	defer theirs.stop()
	r, err := pairs(h.rounds,
		func() (float64, error) { return measure(ours.url + path) },
		func() (float64, error) { return measure(theirs.url + path) })
	if err != nil {
		return result{}, err
	}
	return r.atLeast(goal), nil
}

// filled starts assay with an empty store and fills it with the paths.
func (b *bench) filled(oneCore bool, u *upstream, paths ...string) (*process, error) {
	data, err := b.newDir()
	if err != nil {
		return nil, err
	}
	p, err := b.serve(oneCore, data, u)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if _, err := get(b.ctx, p.url+path); err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, nil
}

// startCopy starts the yardstick with assay's response: the same headers, the same bytes.
func (b *bench) startCopy(ours *process, path string) (*process, error) {
	resp, err := http.Get(ours.url + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	header := resp.Header.Clone()
	header.Del("Date") // each server writes its own
	return b.startBase(true, spec{Path: path, Header: header, Body: body})
}

// startAthens starts Athens with its default settings, with the module in its disk storage.
func (b *bench) startAthens(u *upstream, path, suffix string) (*process, error) {
	if b.athens == "" {
		return nil, errors.New("no Athens was given")
	}
	root, err := b.newDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "bench.example", "hot", "v1.0.0")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for from, to := range map[string]string{".mod": "go.mod", ".zip": "source.zip", ".info": "v1.0.0.info"} {
		data, err := os.ReadFile(filepath.Join(u.dir, path+from))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, to), data, 0o644); err != nil {
			return nil, err
		}
	}
	return b.start(path+suffix, true, []string{
		"ATHENS_STORAGE_TYPE=disk", "ATHENS_DISK_STORAGE_ROOT=" + root, "ATHENS_PORT=ADDRESS",
		"ATHENS_DOWNLOAD_MODE=none",
	}, b.athens)
}

// hotZip compares the bytes per second of a zip that does not fit into a processor's cache, for one
// client at a time.
func (b *bench) hotZip() (result, error) {
	u, err := b.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	path, err := u.add("bench.example/zip", 50_000_000)
	if err != nil {
		return result{}, err
	}
	ours, err := b.filled(false, u, path+".zip")
	if err != nil {
		return result{}, err
	}
	defer ours.stop()
	theirs, err := b.startBase(false, spec{Path: path + ".zip", File: filepath.Join(u.dir, path+".zip")})
	if err != nil {
		return result{}, err
	}
	defer theirs.stop()
	r, err := pairs(b.rounds, b.throughput(ours.url+path+".zip"), b.throughput(theirs.url+path+".zip"))
	if err != nil {
		return result{}, err
	}
	return r.atLeast(1), nil
}

// throughput returns a side of a pair: it reads a URL repeatedly for the length of a slice, and
// returns the bytes per second.
func (b *bench) throughput(url string) func() (float64, error) {
	return func() (float64, error) {
		var total int64
		begin := time.Now()
		for time.Since(begin) < b.slice {
			n, err := get(b.ctx, url)
			if err != nil {
				return 0, err
			}
			total += n
		}
		return float64(total) / time.Since(begin).Seconds(), nil
	}
}
