package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// latestOfList returns the .info of the latest version of a module at an upstream
// without @latest, which is optional in the protocol (go.dev/ref/mod#goproxy-protocol):
// file trees and module caches have none. Like the go command it reads the upstream's
// list. Where that does not help, absence is the error.
func latestOfList(modulePath string, read fetch.Reader, source string, absence error) ([]byte, error) {
	list, err := read(Request{Kind: List, Module: modulePath}.Path(), listLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, absence
	}
	if err != nil {
		return nil, err
	}
	versions := listed(modulePath, list)
	if len(versions) == 0 {
		return nil, absence
	}
	latest, err := newest(modulePath, versions, func(version string) ([]byte, error) {
		return read(Request{Kind: Mod, Module: modulePath, Version: version}.Path(), modLimit)
	})
	if err != nil {
		return nil, err
	}
	data, err := read(Request{Kind: Info, Module: modulePath, Version: latest}.Path(), infoLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, absence
	}
	if err != nil {
		return nil, err
	}
	if version, err := parseInfo(data); err != nil || version != latest {
		return nil, fmt.Errorf("%w: %s: its list has %s, the info of that is of version %q", errGarbage, source, latest, version)
	}
	return data, nil
}

// listed returns the versions of an upstream's list that are canonical and of the
// module, pseudo-versions among them.
func listed(modulePath string, list []byte) []string {
	var versions []string
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line) // the second one is a time, for people
		if len(fields) > 0 && module.CanonicalVersion(fields[0]) == fields[0] && module.Check(modulePath, fields[0]) == nil {
			versions = append(versions, fields[0])
		}
	}
	return versions
}

// newest returns which of versions, at least one, the go command means by latest: the
// highest release, else the highest prerelease, else the pseudo-version of the newest
// commit. A +incompatible version counts only if the highest compatible one has no
// go.mod of its own (go.dev/ref/mod#non-module-compat), which readMod tells; its error
// is fs.ErrNotExist where that cannot be known, or that of newest.
func newest(modulePath string, versions []string, readMod func(version string) ([]byte, error)) (string, error) {
	compatible := slices.DeleteFunc(slices.Clone(versions), func(v string) bool { return semver.Build(v) == "+incompatible" })
	if len(compatible) > 0 && len(compatible) < len(versions) {
		best := highest(compatible)
		mod, err := readMod(best)
		switch {
		case err == nil && !madeUp(modulePath, mod):
			return best, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
	}
	return highest(versions), nil
}

func highest(versions []string) string {
	return slices.MaxFunc(versions, func(a, b string) int {
		if ca, cb := class(a), class(b); ca != cb {
			return ca - cb
		}
		if class(a) == classPseudo {
			if c := commitTime(a).Compare(commitTime(b)); c != 0 {
				return c
			}
		}
		return semver.Compare(a, b)
	})
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
