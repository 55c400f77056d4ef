// Package request takes the paths of the GOPROXY protocol apart
// (go.dev/ref/mod#goproxy-protocol, go.dev/ref/mod#checksum-database), and writes them.
package request

import (
	"fmt"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
)

// Kind says which file of the protocol a Request asks for.
type Kind uint8

const (
	List           Kind = iota // M/@v/list
	Latest                     // M/@latest
	Info                       // M/@v/V.info, where V may be a branch or a commit
	Mod                        // M/@v/V.mod
	Zip                        // M/@v/V.zip
	SumDBSupported             // sumdb/NAME/supported
	SumDBLatest                // sumdb/NAME/latest
	SumDBLookup                // sumdb/NAME/lookup/M@V
	SumDBTile                  // sumdb/NAME/tile/8/L/N[.p/W]
	NumKinds                   // not a Kind
)

// String returns the name of the kind as logs and metrics have it.
func (k Kind) String() string {
	return [...]string{"list", "latest", "info", "mod", "zip",
		"sumdb_supported", "sumdb_latest", "sumdb_lookup", "sumdb_tile", "other"}[min(k, NumKinds)]
}

// Route returns the pattern of the paths of the kind.
func (k Kind) Route() string {
	return [...]string{"/{module}/@v/list", "/{module}/@latest", "/{module}/@v/{version}.info", "/{module}/@v/{version}.mod", "/{module}/@v/{version}.zip",
		"/sumdb/{database}/supported", "/sumdb/{database}/latest", "/sumdb/{database}/lookup/{module}@{version}", "/sumdb/{database}/tile/{tile}", "other"}[min(k, NumKinds)]
}

// A Request is a path of the protocol, taken apart. All its values are decoded
// and valid.
type Request struct {
	Kind     Kind
	Module   string    // of the first five kinds and of a lookup
	Version  string    // of Info, Mod, Zip and a lookup; of Info it may be any query
	Database string    // of the sumdb kinds
	Tile     tlog.Tile // of SumDBTile
}

// maxPath bounds a path, in bytes. No module has a path that is nearly as long.
const maxPath = 2048

// Parse takes a path of the protocol apart, or returns an *Error. The path
// is what remains of a URL's path after it was percent-decoded once, without
// leading slash.
//
// Malformed paths are refused nowhere else: the Request is valid, and its Path is
// exactly path.
func Parse(path string) (Request, error) {
	if len(path) > maxPath {
		return Request{}, &Error{path, fmt.Errorf("%d bytes; the limit is %d", len(path), maxPath)}
	}
	r, err := parsePath(path)
	if err != nil {
		return Request{}, &Error{path, err}
	}
	return r, nil
}

func parsePath(path string) (Request, error) {
	if rest, ok := strings.CutPrefix(path, "sumdb/"); ok {
		return parseSumDB(rest)
	}
	if escaped, ok := strings.CutSuffix(path, "/@latest"); ok {
		return parseModule(Request{Kind: Latest}, escaped)
	}
	escaped, file, ok := strings.Cut(path, "/@v/")
	if !ok {
		return Request{}, fmt.Errorf("it has neither /@v/ nor /@latest")
	}
	if file == "list" {
		return parseModule(Request{Kind: List}, escaped)
	}
	dot := strings.LastIndexByte(file, '.')
	if dot < 0 {
		return Request{}, fmt.Errorf("unknown file %q", file)
	}
	r := Request{}
	switch file[dot:] {
	case ".info":
		r.Kind = Info
	case ".mod":
		r.Kind = Mod
	case ".zip":
		r.Kind = Zip
	default:
		return Request{}, fmt.Errorf("unknown file %q", file)
	}
	r, err := parseModule(r, escaped)
	if err != nil {
		return r, err
	}
	if r.Version, err = module.UnescapeVersion(file[:dot]); err != nil {
		return r, err
	}
	if r.Kind != Info && !r.canonical() {
		return r, fmt.Errorf("%q is not a canonical version of %s", r.Version, r.Module)
	}
	return r, checkQuery(r)
}

// checkQuery refuses the words that the go command keeps for queries of its own. It
// answers them from the list and from @latest, and never sends them to a proxy; an
// upstream or a repository would take them for the name of a branch, or for a query of
// its own, whose answer changes.
func checkQuery(r Request) error {
	switch r.Version {
	case "latest":
		return fmt.Errorf("latest is a query, not a version or a branch; the path of the latest version is %s/@latest", r.escaped())
	case "upgrade", "patch", "none":
		return fmt.Errorf("%s is a query that the go command answers from %s/@v/list, not a version or a branch", r.Version, r.escaped())
	}
	return nil
}

func parseModule(r Request, escaped string) (Request, error) {
	var err error
	r.Module, err = module.UnescapePath(escaped)
	return r, err
}

// parseSumDB takes apart what follows sumdb/. A database's name may contain
// slashes, so it ends at the first thing that cannot be part of it.
func parseSumDB(rest string) (Request, error) {
	lookup, tile := strings.Index(rest, "/lookup/"), strings.Index(rest, "/tile/")
	switch {
	case lookup > 0 && (tile < 0 || lookup < tile):
		return parseLookup(Request{Kind: SumDBLookup, Database: rest[:lookup]}, rest[lookup+len("/lookup/"):])
	case tile > 0:
		t, err := tlog.ParseTilePath(rest[tile+1:])
		if err != nil {
			return Request{}, err
		}
		if !sumdb.KnownTile(t) {
			return Request{}, fmt.Errorf("no database has a tile of this height, level or number")
		}
		return Request{Kind: SumDBTile, Database: rest[:tile], Tile: t}, checkDatabase(rest[:tile])
	}
	if name, ok := strings.CutSuffix(rest, "/supported"); ok {
		return Request{Kind: SumDBSupported, Database: name}, checkDatabase(name)
	}
	if name, ok := strings.CutSuffix(rest, "/latest"); ok {
		return Request{Kind: SumDBLatest, Database: name}, checkDatabase(name)
	}
	return Request{}, fmt.Errorf("unknown file of a checksum database")
}

func parseLookup(r Request, escaped string) (Request, error) {
	if err := checkDatabase(r.Database); err != nil {
		return r, err
	}
	escapedPath, escapedVersion, ok := strings.Cut(escaped, "@")
	if !ok {
		return r, fmt.Errorf("no @ between module and version")
	}
	r, err := parseModule(r, escapedPath)
	if err != nil {
		return r, err
	}
	if r.Version, err = module.UnescapeVersion(escapedVersion); err != nil {
		return r, err
	}
	if !r.canonical() {
		return r, fmt.Errorf("%q is not a canonical version of %s", r.Version, r.Module)
	}
	return r, nil
}

// checkDatabase checks the name of a database: host[/path] as in a verifier key
// (x/mod/sumdb/note), without dot segments.
func checkDatabase(name string) error {
	for element := range strings.SplitSeq(name, "/") {
		if element == "" || element == "." || element == ".." {
			return fmt.Errorf("invalid database name %q", name)
		}
	}
	if strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '+' || c == '@' }) {
		return fmt.Errorf("invalid database name %q", name)
	}
	return nil
}

// canonical reports whether the version is the one spelling of a version that
// the module can have. Only such a version names something that never changes. It is
// module.Check without the path, which was checked when it was unescaped: a second check
// would be the most expensive part of a private hit.
func (r Request) canonical() bool {
	if module.CanonicalVersion(r.Version) != r.Version || !semver.IsValid(r.Version) {
		return false
	}
	_, major, ok := module.SplitPathVersion(r.Module)
	return ok && module.CheckPathMajor(r.Version, major) == nil
}

// Immutable reports whether the answer to the request never changes.
func (r Request) Immutable() bool {
	return r.Kind == Mod || r.Kind == Zip || r.Kind == Info && r.canonical()
}

// ModuleVersion returns the module and the version that the request names.
func (r Request) ModuleVersion() module.Version {
	return module.Version{Path: r.Module, Version: r.Version}
}

// Path returns the path of the request, the inverse of Parse. It is the key
// of what the request names in the store and in the world.
func (r Request) Path() string {
	switch r.Kind {
	case List:
		return r.escaped() + "/@v/list"
	case Latest:
		return r.escaped() + "/@latest"
	case Info, Mod, Zip:
		version, _ := module.EscapeVersion(r.Version) // valid since Parse
		return r.escaped() + "/@v/" + version + "." + r.Kind.String()
	case SumDBSupported:
		return "sumdb/" + r.Database + "/supported"
	case SumDBLatest:
		return "sumdb/" + r.Database + "/latest"
	case SumDBLookup:
		version, _ := module.EscapeVersion(r.Version)
		return "sumdb/" + r.Database + "/lookup/" + r.escaped() + "@" + version
	default:
		return "sumdb/" + r.Database + "/" + r.Tile.Path()
	}
}

func (r Request) escaped() string {
	escaped, _ := module.EscapePath(r.Module) // valid since Parse
	return escaped
}

// Error says why a path is not one of the protocol.
type Error struct {
	Path string
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("malformed path %.200q: %v", e.Path, e.Err) }

func (e *Error) Unwrap() error { return e.Err }
