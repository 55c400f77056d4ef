package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// hot measures what is requested again and again.
type hot struct{ *bench }

func (h hot) measures() []measure {
	const handler, content, athens = "bare net/http handler, same bytes from memory", "http.ServeContent of a file", "Athens v0.18.0, disk storage"
	return []measure{
		{"requests/s, hot `.mod`, one core", handler, "≥ 0.78", func() (result, error) { return h.small(".mod") }},
		{"requests/s, hot `.info`, one core", handler, "≥ 0.78", func() (result, error) { return h.small(".info") }},
		{"requests/s, hot `.mod`, one core", athens, "≥ 4", func() (result, error) { return h.athens(".mod") }},
		{"requests/s, hot `.info`, one core", athens, "≥ 4", func() (result, error) { return h.athens(".info") }},
		{"requests/s, hot lookup, one core", handler, "≥ 0.7", func() (result, error) { return h.database(lookupName, 0.7) }},
		{"requests/s, hot tile, one core", handler, "≥ 0.6", func() (result, error) { return h.database(tileName, 0.6) }},
		{"requests/s, hot 27 KB zip, one core", content, "≥ 1.2", func() (result, error) { return h.zip(27_000, true, 1.2, h.alone) }},
		{"bytes/s, hot 60 MB zip, four clients", content, "≥ 1.0", func() (result, error) { return h.zip(60_000_000, false, 1, h.four) }},
		{"bytes/s, hot 50 MB zip, one client", content, "≥ 1.0", func() (result, error) { return h.zip(50_000_000, false, 1, h.throughput) }},
	}
}

// small compares a small file of a module with the yardstick.
func (h hot) small(suffix string) (result, error) {
	return h.withModule("hot", 100_000, func(u *upstream, files string) (result, error) {
		ours, err := h.filled(true, u, files+suffix)
		if err != nil {
			return result{}, err
		}
		defer ours.stop()
		theirs, err := h.startCopy(ours, files+suffix)
		if err != nil {
			return result{}, err
		}
		defer theirs.stop()
		return h.compare(ours, theirs, files+suffix, 0.78, h.alone)
	})
}

// athens compares a small file of a module with Athens.
func (h hot) athens(suffix string) (result, error) {
	return h.withModule("hot", 100_000, func(u *upstream, files string) (result, error) {
		ours, err := h.filled(true, u, files+suffix)
		if err != nil {
			return result{}, err
		}
		defer ours.stop()
		theirs, err := h.startAthens(u, files, suffix)
		if err != nil {
			return result{}, err
		}
		defer theirs.stop()
		return h.compare(ours, theirs, files+suffix, 4, h.alone)
	})
}

// database compares a file of the checksum database with the yardstick. name returns its path below
// that of the database.
func (h hot) database(name func(modulePath string) string, goal float64) (result, error) {
	return h.withModule("hot", 100, func(u *upstream, _ string) (result, error) {
		records, err := u.fullTile()
		if err != nil {
			return result{}, err
		}
		path := "/sumdb/" + databaseName + name("bench.example/hot")
		ours, err := h.filled(true, u, append(records, path)...)
		if err != nil {
			return result{}, err
		}
		defer ours.stop()
		theirs, err := h.startCopy(ours, path)
		if err != nil {
			return result{}, err
		}
		defer theirs.stop()
		return h.compare(ours, theirs, path, goal, h.alone)
	})
}

// zip compares a zip of a size with http.ServeContent of the file.
func (h hot) zip(size int, oneCore bool, goal float64, rate rate) (result, error) {
	return h.withModule("hot", size, func(u *upstream, files string) (result, error) {
		path := files + ".zip"
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
		return h.compare(ours, theirs, path, goal, rate)
	})
}

// rate returns how much per second a server sends of a URL, in requests or bytes.
type rate func(url string) (float64, error)

// alone is the rate of a server that has one core for itself: wrk with 16 connections has the other.
func (h hot) alone(url string) (float64, error) { return h.wrk(url) }

// four is the rate for four connections, with all processors for the server and wrk.
func (h hot) four(url string) (float64, error) { return h.load(url, "-t2", "-c4") }

// compare compares the rates of two servers.
func (h hot) compare(ours, theirs *process, path string, goal float64, rate rate) (result, error) {
	r, err := pairs(h.rounds,
		func() (float64, error) { return rate(ours.url + path) },
		func() (float64, error) { return rate(theirs.url + path) })
	if err != nil {
		return result{}, err
	}
	return r.atLeast(goal), nil
}

// throughput is the rate for one client that reads for the length of a slice.
func (h hot) throughput(url string) (float64, error) {
	var total int64
	begin := time.Now()
	for time.Since(begin) < h.slice {
		n, err := get(h.ctx, url)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return float64(total) / time.Since(begin).Seconds(), nil
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
		return nil, absent("Athens")
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
