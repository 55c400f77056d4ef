package predict

import (
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/assay-proxy/assay/internal/memo"
	"github.com/assay-proxy/assay/proxy/request"
)

// goMod is what a go.mod says about the module graph.
type goMod struct {
	pruned   bool // go 1.17 or later: a root leads to nothing
	requires []requirement
}

// requirement is a required version, with the key of its go.mod.
type requirement struct {
	module.Version
	key memo.Key
}

// parse reads a go.mod. Its author chose the text: what no path can name is left out.
func parse(content []byte) (mod goMod, err error) {
	f, err := modfile.ParseLax("go.mod", content, nil)
	if err != nil {
		return mod, err
	}
	mod.pruned = f.Go != nil && semver.Compare("v"+f.Go.Version, "v1.17") >= 0
	for _, r := range f.Require {
		if valid(r.Mod) {
			mod.requires = append(mod.requires, requirement{r.Mod, keyOf(request.Mod, r.Mod)})
		}
	}
	return mod, nil
}

// valid reports whether a path of the protocol can name a version, and is remembered.
func valid(m module.Version) bool { return short(m) && module.Check(m.Path, m.Version) == nil }

// short reports whether a version is remembered.
func short(m module.Version) bool { return len(m.Path)+len(m.Version) <= maxPath }

func keyOf(kind request.Kind, m module.Version) memo.Key {
	return memo.KeyOf(request.Request{Kind: kind, Module: m.Path, Version: m.Version}.Path())
}
