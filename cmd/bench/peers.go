package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// peers compares assay with other servers that have the same files: goproxy, which fetched them as
// assay did, and nginx and Caddy, which serve the bytes that assay sent from plain files.
type peers struct{ b *bench }

// object is what is requested again and again.
type object struct {
	name    string
	oneCore bool
	size    int                       // of the zip
	path    func(files string) string // on the server; files is the path of the module's files without the suffix
}

func (p peers) measures() (all []measure) {
	suffix := func(s string) func(string) string { return func(files string) string { return files + s } }
	database := "/sumdb/" + databaseName
	for _, f := range []object{
		{"`.mod`", true, 27_000, suffix(".mod")},
		{"`.info`", true, 27_000, suffix(".info")},
		{"lookup", true, 27_000, func(string) string { return database + lookupName("bench.example/hot") }},
		{"tile", true, 27_000, func(string) string { return database + tileName("") }},
		{"27 KB zip", true, 27_000, suffix(".zip")},
		{"60 MB zip", false, 60_000_000, suffix(".zip")},
	} {
		cores := "two cores, four connections"
		goal := "≥ 1 of goproxy"
		if f.oneCore {
			cores = "one core"
		}
		all = append(all, measure{"requests/s, hot " + f.name + ", " + cores, "goproxy v0.26.1, nginx, Caddy", goal, func() (result, error) { return p.compare(f) }})
	}
	return all
}

// compare measures all servers in turns.
func (p peers) compare(f object) (result, error) {
	return p.b.withModule("hot", f.size, func(u *upstream, files string) (result, error) {
		records, err := u.fullTile()
		if err != nil {
			return result{}, err
		}
		path := f.path(files)
		ours, err := p.b.filled(f.oneCore, u, append(records, path)...)
		if err != nil {
			return result{}, err
		}
		defer ours.stop()
		servers, notes, err := p.start(f, u, ours, path)
		if err != nil {
			return result{}, err
		}
		sides := []func() (float64, error){p.side(f, ours.url+path)}
		for _, s := range servers {
			defer s.stop()
			sides = append(sides, p.side(f, s.url+path))
		}
		values, err := turns(min(3, p.b.rounds), sides...)
		if err != nil {
			return result{}, err
		}
		return judgePeers(servers, values, notes), nil
	})
}

// peer is a server beside ours.
type peer struct {
	*process
	name string
}

// judgePeers returns the ratios of the first side to each peer's.
func judgePeers(servers []peer, values [][]float64, notes []string) result {
	met := result{none: true}
	var texts []string
	for i, s := range servers {
		r := ratiosOf(values[0], values[i+1])
		texts = append(texts, s.name+" "+r.String())
		if s.name == "goproxy" {
			met = r.atLeast(1)
		}
	}
	met.text = strings.Join(append(texts, notes...), "; ")
	return met
}

func (p peers) side(f object, url string) func() (float64, error) {
	rate := hot{p.b}.four
	if f.oneCore {
		rate = hot{p.b}.alone
	}
	return func() (float64, error) { return rate(url) }
}

// start starts the servers that are there. The notes say which are not.
func (p peers) start(f object, u *upstream, ours *process, path string) (servers []peer, notes []string, err error) {
	root, err := p.b.newDir()
	if err != nil {
		return nil, nil, err
	}
	if err := p.save(ours.url+path, filepath.Join(root, filepath.FromSlash(path))); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(root, "readyz"), nil, 0o644); err != nil {
		return nil, nil, err
	}
	for _, s := range []struct {
		name  string
		start func() (*process, error)
	}{
		{"goproxy", func() (*process, error) { return p.goproxy(f, u, path) }},
		{"nginx", func() (*process, error) { return p.nginx(f, root) }},
		{"Caddy", func() (*process, error) { return p.caddy(f, root) }},
	} {
		started, err := s.start()
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s not measured: %v", s.name, err))
			continue
		}
		servers = append(servers, peer{started, s.name})
	}
	return servers, notes, nil
}

// save writes what a URL has into a file.
func (p peers) save(url, name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := getInto(p.b.ctx, newClient(), url, file); err != nil {
		return err
	}
	return file.Close()
}

// goproxy starts goproxy and lets it fetch the file.
func (p peers) goproxy(f object, u *upstream, path string) (*process, error) {
	data, err := p.b.newDir()
	if err != nil {
		return nil, err
	}
	started, err := ways(p).startGoproxy(f.oneCore, u.url, u.key, "--cacher-dir", data)
	if err != nil {
		return nil, err
	}
	if _, err := get(p.b.ctx, started.url+path); err != nil {
		started.stop()
		return nil, err
	}
	return started, nil
}

// nginx starts nginx as it is installed, with as many processes as it has processors, and with an
// access log as all others have.
func (p peers) nginx(f object, root string) (*process, error) {
	if p.b.nginx == "" {
		return nil, absent("nginx")
	}
	dir, err := p.b.newDir()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	workers := runtime.NumCPU()
	if f.oneCore {
		workers = 1
	}
	config := fmt.Sprintf(`daemon off; user root; worker_processes %d; pid pid; error_log stderr;
events { worker_connections 1024; }
http {
	access_log access.log; sendfile on; tcp_nopush on; default_type application/octet-stream;
	client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
	server { listen %s; root %s; }
}
`, workers, address, root)
	name := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(name, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return p.b.startAt(address, "/readyz", f.oneCore, nil, p.b.nginx, "-p", dir, "-c", name)
}

// caddy starts Caddy as a file server.
func (p peers) caddy(f object, root string) (*process, error) {
	if p.b.caddy == "" {
		return nil, absent("Caddy")
	}
	home, err := p.b.newDir()
	if err != nil {
		return nil, err
	}
	return p.b.start("/readyz", f.oneCore, []string{"HOME=" + home}, p.b.caddy, "file-server", "--listen", "ADDRESS", "--root", root, "--access-log")
}
