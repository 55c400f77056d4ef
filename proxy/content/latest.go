package content

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/request"
)

// latestOfList returns the .info of the latest version of a module at an upstream
// without @latest, which is optional in the protocol (go.dev/ref/mod#goproxy-protocol):
// file trees and module caches have none. Like the go command it reads the upstream's
// list. Where that does not help, absence is the error.
func latestOfList(modulePath string, read fetch.Reader, source string, absence error) ([]byte, error) {
	list, err := read(request.Request{Kind: request.List, Module: modulePath}.Path(), listLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, absence
	}
	if err != nil {
		return nil, err
	}
	// From here on the list is not used: what is read next has its memory.
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
	if errors.Is(err, fs.ErrNotExist) {
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

// maxListed is the longest version of a list that can be the latest. None that exists is
// nearly as long; a list can have one of megabytes.
const maxListed = 400

// listed returns the versions of an upstream's list that are canonical and of the
// module, pseudo-versions among them. None of them holds the list.
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

// candidatesOf keeps two of the versions.
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

// latest returns which of the candidates, at least one, the go command means by latest. A
// +incompatible version counts only if the highest compatible one has no
// go.mod of its own (go.dev/ref/mod#non-module-compat), which readMod tells; its error
// is fs.ErrNotExist where that cannot be known, or that of latest.
func (c candidates) latest(modulePath string, readMod func(version string) ([]byte, error)) (string, error) {
	if c.compatible == "" || c.compatible == c.highest {
		return c.highest, nil
	}
	mod, err := readMod(c.compatible)
	switch {
	case err == nil && !madeUp(modulePath, mod):
		return c.compatible, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	return c.highest, nil
}

// compareLatest returns whether the go command prefers a to b as the latest version, as a
// positive number, or b, as a negative one.
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

// Classes of versions: the latest version is one of the highest class that there is.
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
	t, _ := module.PseudoVersionTime(version) // without one it is older than all others
	return t
}

// madeUp reports whether mod is the go.mod that stands for none.
func madeUp(modulePath string, mod []byte) bool {
	return string(mod) == "module "+modfile.AutoQuote(modulePath)+"\n"
}
