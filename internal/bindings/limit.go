package bindings

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of Note, far above real numbers (the largest repositories have some hundreds of
// modules): the owner of a page chooses how many paths name a repository. Learn has no
// limits: a version in the own log was noted before, within them.
const (
	// maxPaths is how many paths one repository can have, private and public ones counted
	// apart. The paths of one host can take maxOfHost of them, so that a page leaves some
	// for the paths that the owner of the repository chose.
	maxPaths  = 4096
	maxOfHost = 1024

	// maxShare is how many bytes of a state the paths of one host can take: a sixteenth.
	maxShare = 1 << 20

	// maxName is the length of a path, and of a repository, in bytes.
	maxName = 300
)

// LimitError says that a fact was not noted because there are too many. Facts that were
// noted before stay, and other repositories are not affected.
type LimitError struct {
	Of    string // which limit was reached: that of a repository, a host, or a host and the first element of its paths
	Limit string // as text
	First bool   // since the start of the program
}

func (e *LimitError) Error() string { return e.Of + " has more than " + e.Limit }

// limit returns an error if one more fact is too many for a shard. A fact that replaces
// another is never too many.
func limit(shard []Fact, f Fact) *LimitError {
	if len(f.Repository) > maxName || len(f.Module) > maxName {
		return &LimitError{Of: "a repository", Limit: fmt.Sprintf("%d bytes in its name, or in the path of a module", maxName)}
	}
	if f.How == Declared || slices.ContainsFunc(shard, f.same) {
		return nil
	}
	host, owner := hostOf(f), f.owner()
	paths, ofHost, size := 0, 0, f.size()
	for _, other := range shard {
		if other.How == Declared { // it counts for no host: its path may belong to another owner
			continue
		}
		if other.Repository == f.Repository && other.Public == f.Public {
			paths++
			if hostOf(other) == host {
				ofHost++
			}
		}
		if hostOf(other) == host && other.owner() == owner {
			size += other.size()
		}
	}
	switch {
	case paths >= maxPaths:
		return &LimitError{Of: f.Repository, Limit: fmt.Sprintf("%d module paths", maxPaths)}
	case ofHost >= maxOfHost:
		return &LimitError{Of: f.Repository, Limit: fmt.Sprintf("%d module paths at %s", maxOfHost, host)}
	case size > maxShare:
		return &LimitError{Of: owner, Limit: "its share of the module paths that are noted"}
	}
	return nil
}

// size returns about how many bytes of a state a fact takes.
func (f Fact) size() int {
	const words = len("private credential ")
	return words + len(f.Repository) + len(f.Module) + len("\"\" \"\"\n")
}

func hostOf(f Fact) string {
	host, _, _ := strings.Cut(f.Module, "/")
	return host
}

// owner returns the owner for whom the size of f is counted: the host of a page, or, if
// the repository is on the host of its module path, that host with the first path
// element, because a code host has many owners.
func (f Fact) owner() string {
	host := hostOf(f)
	if !strings.HasPrefix(f.Repository, host+"/") {
		return host
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(f.Module, host+"/"), "/")
	return host + "/" + first
}
