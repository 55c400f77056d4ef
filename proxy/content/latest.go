package content

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
)

// latestOfList returns the .info of the latest version of a module at an upstream without
// @latest, which is optional in the protocol (go.dev/ref/mod#goproxy-protocol): file
// trees and module caches have none. Like the go command it reads the upstream's list. If
// that does not help, it returns the error absence.
func latestOfList(modulePath string, read fetch.Reader, source string, absence error) ([]byte, error) {
	list, err := read(request.Request{Kind: request.List, Module: modulePath}.Path(), listLimit)
	if notfound.Is(err) {
		return nil, absence
	}
	if err != nil {
		return nil, err
	}
	// The list is no longer used: the next reads take its memory.
	versions := candidatesOf(listed(modulePath, list))
	if versions.highest == "" {
		return nil, absence
	}
	latest, err := versions.latest(modulePath, func(version string) ([]byte, error) {
		return read(request.Request{Kind: request.Mod, Module: modulePath, Version: version}.Path(), modLimit)
	})
	if err != nil {
		return nil, err
	}
	data, err := read(request.Request{Kind: request.Info, Module: modulePath, Version: latest}.Path(), infoLimit)
	if notfound.Is(err) {
		return nil, absence
	}
	if err != nil {
		return nil, err
	}
	if version, err := parseInfo(data); err != nil || version != latest {
		return nil, fmt.Errorf("%w: %s: its list has %s, but the info of that version says %q", ErrGarbage, source, latest, version)
	}
	return data, nil
}

// maxListed is the longest version of a list that can be the latest. Real versions are
// much shorter; a list can have one of megabytes.
const maxListed = 400

// listed returns the canonical versions of the module in an upstream's list, including
// pseudo-versions. They do not keep the list in memory.
func listed(modulePath string, list []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for line := range bytes.Lines(list) {
			field := firstField(line)
			if len(field) > maxListed {
				continue
			}
			v := string(field)
			if v != "" && module.CanonicalVersion(v) == v && module.Check(modulePath, v) == nil && !yield(v) {
				return
			}
		}
	}
}

// candidates are the versions of a module that may be the latest one: the highest release,
// else the highest prerelease, else the pseudo-version of the newest commit.
type candidates struct {
	highest    string // "" if there is none
	compatible string // of those that are not +incompatible
}

// candidatesOf returns the candidates among the versions.
func candidatesOf(versions iter.Seq[string]) candidates {
	var c candidates
	for v := range versions {
		if c.highest == "" || compareLatest(v, c.highest) > 0 {
			c.highest = v
		}
		if semver.Build(v) != "+incompatible" && (c.compatible == "" || compareLatest(v, c.compatible) > 0) {
			c.compatible = v
		}
	}
	return c
}

// latest returns which of the candidates, of which there is at least one, is latest for
// the go command. A +incompatible version counts only if the highest compatible version
// has no go.mod of its own (go.dev/ref/mod#non-module-compat), which latest finds out
// with readMod. If the error of readMod is fs.ErrNotExist, that is not known; any other
// error is returned.
func (c candidates) latest(modulePath string, readMod func(version string) ([]byte, error)) (string, error) {
	if c.compatible == "" || c.compatible == c.highest {
		return c.highest, nil
	}
	mod, err := readMod(c.compatible)
	switch {
	case err == nil && string(mod) != madeMod(modulePath):
		return c.compatible, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	return c.highest, nil
}

// compareLatest returns a positive number if the go command prefers a to b as the latest
// version, a negative one if it prefers b.
func compareLatest(a, b string) int {
	if ca, cb := class(a), class(b); ca != cb {
		return ca - cb
	}
	if class(a) == classPseudo {
		if c := commitTime(a).Compare(commitTime(b)); c != 0 {
			return c
		}
	}
	return semver.Compare(a, b)
}

// Classes of versions: the latest version is of the highest class among the versions.
const (
	classPseudo = iota
	classPrerelease
	classRelease
)

func class(version string) int {
	switch {
	case module.IsPseudoVersion(version):
		return classPseudo
	case semver.Prerelease(version) != "":
		return classPrerelease
	}
	return classRelease
}

// commitTime returns when the commit of a pseudo-version was made.
func commitTime(version string) time.Time {
	t, _ := module.PseudoVersionTime(version) // without a time it is older than all others
	return t
}
