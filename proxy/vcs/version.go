package vcs

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// Versions are what a repository says about a module as a whole.
type Versions struct {
	Tagged   []string // versions, retracted ones included, in no particular order
	Latest   Info     // what the go command means by latest
	NoLatest error    // why there is none, though there are Tagged ones: the newest is no version of the module
	Origin   Origin
	Place    Place
}

// Info is a version. Its JSON is that of an .info file.
type Info struct {
	Version string
	Time    time.Time
	Origin  *Origin `json:",omitempty"`
	Place   Place   `json:"-"`
}

// Origin is where a version comes from (cmd/go/internal/modfetch/codehost.Origin).
type Origin struct {
	VCS    string `json:",omitempty"`
	URL    string `json:",omitempty"`
	Subdir string `json:",omitempty"`
	Ref    string `json:",omitempty"`
	Hash   string `json:",omitempty"`
}

// String returns the repository and the commit in one line.
func (o Origin) String() string {
	return strings.Join(slices.DeleteFunc([]string{o.URL, o.Ref, o.Hash}, func(s string) bool { return s == "" }), " ")
}

// listed is what go list -m -json prints of a module, and where that was found.
type listed struct {
	Path, Version string
	Versions      []string
	Time          *time.Time
	GoMod         string
	Retracted     []string // why, of a version that its module has taken back
	Origin        *Origin
	Error         *struct{ Err string }

	place Place
}

func (l listed) info() Info {
	info := Info{Version: l.Version, Origin: l.Origin, Place: l.place}
	if l.Time != nil {
		info.Time = *l.Time
	}
	return info
}

// Files is what go mod download has made of a version. They are readable until the
// function that got them returns.
type Files struct {
	Info, Mod []byte
	Zip       string // name of a file
	Origin    Origin
	Place     Place
}

// Place is where a module is, and with what it is read.
type Place struct {
	// Repository is host/path as CanonicalRepository returns it, "" if it was not
	// found.
	Repository string

	// Credential says that a credential is shown to the host of the repository, or
	// to that of the page which names it.
	Credential bool

	// Redirected is the repository to which the host has redirected git, "" if to none:
	// one that was renamed is found under its old name too.
	Redirected string

	// Declared is the module path in the go.mod file that was read, "" if there was
	// none.
	Declared string
}

// declared returns the module path in a go.mod file, "" if it is none.
func declared(goMod []byte) string {
	modulePath := modfile.ModulePath(goMod)
	if module.CheckImportPath(modulePath) != nil {
		return ""
	}
	return modulePath
}
