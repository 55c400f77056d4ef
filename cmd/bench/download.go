package main

import (
	"errors"
	"os"
	"path/filepath"
)

// downloadRounds is how often everything is downloaded from the public mirror: often enough for a
// median, and not more, because others operate it.
const downloadRounds = 3

// goModDownload runs go mod download for the go.mod, with fresh caches and without a go.sum, so
// that the go command looks up every module in the checksum database. It returns the seconds it
// took and the module cache.
func (b *bench) goModDownload(goproxy string) (seconds float64, cache string, err error) {
	if b.gomod == "" {
		return 0, "", errors.New("no go.mod was given")
	}
	dir, err := b.newDir()
	if err != nil {
		return 0, "", err
	}
	mod, err := os.ReadFile(b.gomod)
	if err != nil {
		return 0, "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), mod, 0o644); err != nil {
		return 0, "", err
	}
	seconds, err = b.goCommand(dir, goproxy, "", "mod", "download")
	return seconds, filepath.Join(dir, "mod"), err
}

// coldDownload compares an empty assay, whose upstream is the public mirror, with the public mirror
// itself.
func (b *bench) coldDownload() (result, error) {
	ours := func() (float64, error) {
		data, err := b.newDir()
		if err != nil {
			return 0, err
		}
		p, err := b.startPublic(data)
		if err != nil {
			return 0, err
		}
		defer p.stop()
		seconds, cache, err := b.goModDownload(p.url)
		if err != nil {
			return 0, err
		}
		return seconds, os.RemoveAll(cache)
	}
	theirs := func() (float64, error) {
		seconds, cache, err := b.goModDownload("") // the go command's default
		if err != nil {
			return 0, err
		}
		return seconds, os.RemoveAll(cache)
	}
	r, err := pairs(downloadRounds, ours, theirs)
	if err != nil {
		return result{}, err
	}
	return r.atMost(1.1), nil
}

// startPublic starts assay with its default settings, with the public mirror as its upstream.
func (b *bench) startPublic(data string) (*process, error) {
	env := []string{"GOPROXY=", "GOSUMDB=", "GOPRIVATE=", "GONOPROXY=", "GONOSUMDB="}
	return b.start("/readyz", false, env, b.assay, "serve", "--listen", "ADDRESS", "--data", data)
}

// warmDownload compares an assay that holds everything with the files of a module cache. The go
// command uses the database of both: in its cache it keeps the records and tiles under the same
// paths as a proxy, all but one.
func (b *bench) warmDownload() (result, error) {
	data, err := b.newDir()
	if err != nil {
		return result{}, err
	}
	p, err := b.startPublic(data)
	if err != nil {
		return result{}, err
	}
	_, _, err = b.goModDownload(p.url)
	p.stop()
	if err != nil {
		return result{}, err
	}
	if p, err = b.start("/readyz", false, nil, b.assay, "serve", "--listen", "ADDRESS", "--data", data, "--upstream", "off", "--sumdb", "sum.golang.org"); err != nil {
		return result{}, err
	}
	defer p.stop()
	_, cache, err := b.goModDownload(p.url)
	if err != nil {
		return result{}, err
	}
	files := filepath.Join(cache, "cache", "download")
	if err := os.WriteFile(filepath.Join(files, "sumdb", "sum.golang.org", "supported"), nil, 0o644); err != nil {
		return result{}, err
	}
	side := func(goproxy string) func() (float64, error) {
		return func() (float64, error) {
			seconds, cache, err := b.goModDownload(goproxy)
			if err != nil {
				return 0, err
			}
			return seconds, os.RemoveAll(cache)
		}
	}
	r, err := pairs(b.rounds, side(p.url), side("file://"+files))
	if err != nil {
		return result{}, err
	}
	return r.atMost(1.05), nil
}
