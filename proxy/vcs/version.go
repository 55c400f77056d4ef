package vcs

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// Versions are the versions of a module in its repository.
type Versions struct {
	Tagged   []string // versions, retracted ones included, in no particular order
	Latest   Info     // latest according to the go command
	NoLatest error    // why there is none, although there are Tagged ones: the newest is no version of the module
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

// listed is the output of go list -m -json, and the place of the module.
type listed struct {
	Path, Version string
	Versions      []string
	Time          *time.Time
	GoMod         string
	Retracted     []string // the reasons, of a retracted version
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

// Files are the files that go mod download created for a version. They exist until the
// function that gets them returns.
type Files struct {
	Info, Mod []byte
	Zip       string // name of a file
	Origin    Origin
	Place     Place
}

// Place is where a module is, and how it is read.
type Place struct {
	// Repository is host/path as CanonicalRepository returns it, "" if it was not
	// found.
	Repository string

	// Credential says that a credential is sent to the host of the repository, or
	// to that of the page that names it.
	Credential bool

	// Redirected is the repository to which the host redirected git, "" if it did not: a
	// renamed repository is found under its old name, too.
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
