package predict

import (
	"slices"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// graph is the module graph of a client's main module, as far as its requests show it. The client
// requests the roots, the go.mod files that the main module requires, in the order of their paths.
// The main module requires the highest version that any module requires. So a path that is still to
// come in that order, and that two of the requested roots require, is probably a root itself.
type graph struct {
	modules map[string]node // by path
	order   []string        // the paths in modules, sorted

	at    string   // the highest path that was requested as a root
	last  []string // the latest roots
	ended bool     // a request below them has shown that all roots were requested
	all   bool     // the client also reads the .info of what is no root

	asked  int              // roots that were requested
	open   []module.Version // guesses that the order has not passed yet
	missed int              // guesses that it has passed without a request
}

// node is what is known of a module.
type node struct {
	selected string // the highest version of which the go.mod was requested; "": none
	root     bool   // it was requested in the order of the roots
	best     string // the highest version that a requested root requires; "": none
	count    int    // requested roots that require it
	guess    string // the version that was guessed; "": none
}

const (
	// together is how many roots a go command requests at the same time, on many processors.
	together = 16

	// ahead is how many of the known paths that follow in the order are examined for a guess, and
	// enough how many of the requested roots must require one.
	ahead  = 8
	enough = 2

	// fails is how many open guesses are expected to contain one that misses, and apart how far from
	// their order a go command requests roots, on few processors.
	fails = 5
	apart = 4

	// gap is how many modules are examined for the next .info or zip.
	gap = 128
)

func newGraph() graph { return graph{modules: map[string]node{}} }

// node returns the node of a path, which it adds unless the client is full.
func (g *graph) node(path string, full bool) (n node, ok bool) {
	n, ok = g.modules[path]
	if !ok && !full {
		at, _ := slices.BinarySearch(g.order, path)
		g.order = slices.Insert(g.order, at, path)
		return n, true
	}
	return n, ok
}

// request notes that the go.mod of m is requested. led says that another go.mod has led to it, and
// full that no module may be added.
func (g *graph) request(m module.Version, led, full bool) {
	g.open = slices.DeleteFunc(g.open, func(o module.Version) bool { return o == m })
	n, ok := g.node(m.Path, full)
	if !ok {
		return
	}
	n.root = g.advance(m.Path, led) || n.root
	if n.selected == "" || semver.Compare(m.Version, n.selected) > 0 {
		n.selected = m.Version
	}
	g.modules[m.Path] = n
}

// advance notes that a go.mod was requested, and reports whether it is a root.
func (g *graph) advance(path string, led bool) bool {
	switch {
	case g.ended:
		return false
	case path > g.at:
		g.at = path
	case led && path < slices.Min(g.last):
		g.ended = true
		return false
	}
	g.asked++
	g.last = append(g.last, path)
	if len(g.last) > together {
		g.last = slices.Delete(g.last, 0, 1)
	}
	return true
}

// learn notes what a root requires. At most room modules may be added.
func (g *graph) learn(requires []requirement, room int) {
	most := len(g.modules) + room
	for _, r := range requires {
		n, ok := g.node(r.Path, len(g.modules) >= most)
		if !ok {
			continue
		}
		n.count++
		if n.best == "" || semver.Compare(r.Version.Version, n.best) > 0 {
			n.best = r.Version.Version
		}
		g.modules[r.Path] = n
	}
}

// guess returns a version that is probably a root that will be requested soon. A graph has at most one
// guess that misses for every ten roots, and one more, if one in five of those that are open will.
func (g *graph) guess() (m module.Version, ok bool) {
	if g.ended || len(g.last) == 0 {
		return m, false
	}
	g.passOpen()
	if g.missed+len(g.open)/fails >= 1+g.asked/10 {
		return m, false
	}
	for _, path := range g.after(g.at, ahead) {
		n := g.modules[path]
		if n.selected != "" || n.count < enough || n.guess == n.best {
			continue
		}
		n.guess = n.best
		g.modules[path] = n
		return module.Version{Path: path, Version: n.best}, true
	}
	return m, false
}

// guessed notes that a guess is predicted.
func (g *graph) guessed(m module.Version) { g.open = append(g.open, m) }

// passOpen counts the guesses that the order of the roots has passed.
func (g *graph) passOpen() {
	lowest := slices.Min(g.last[max(0, len(g.last)-apart):])
	g.open = slices.DeleteFunc(g.open, func(m module.Version) bool {
		passed := m.Path < lowest
		if passed {
			g.missed++
		}
		return passed
	})
}

// after returns at most n known paths after one.
func (g *graph) after(path string, n int) []string {
	at, found := slices.BinarySearch(g.order, path)
	if found {
		at++
	}
	return g.order[at:min(at+n, len(g.order))]
}

// selects reports whether the go command selects m, as far as is known: its .info may follow. If that
// is no root, the .info of all others may follow, too.
func (g *graph) selects(m module.Version) bool {
	n := g.modules[m.Path]
	if n.selected != m.Version {
		return false
	}
	g.all = g.all || !n.root
	return true
}

// following returns the selected versions of which the .info may follow that of a path. The go command
// requests those that the main module imports first, and then the others, each in the order of the
// paths.
func (g *graph) following(path string) (next []module.Version) {
	after := g.after(path, gap)
	if len(after) < gap {
		after = append(slices.Clone(after), g.order[:min(gap-len(after), len(g.order)-len(after))]...)
	}
	for _, path := range after {
		if n := g.modules[path]; n.selected != "" && (n.root || g.all) {
			next = append(next, module.Version{Path: path, Version: n.selected})
		}
	}
	return next
}
