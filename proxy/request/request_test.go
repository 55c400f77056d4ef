package request_test

import (
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/proxy/request"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		path string
		want request.Request
	}{
		{"example.com/a/@v/list", request.Request{Kind: request.List, Module: "example.com/a"}},
		{"example.com/a/@latest", request.Request{Kind: request.Latest, Module: "example.com/a"}},
		{"github.com/!burnt!sushi/toml/@v/v1.0.0.info", request.Request{Kind: request.Info, Module: "github.com/BurntSushi/toml", Version: "v1.0.0"}},
		{"example.com/a/@v/master.info", request.Request{Kind: request.Info, Module: "example.com/a", Version: "master"}},
		{"example.com/a/@v/!feature.x.info", request.Request{Kind: request.Info, Module: "example.com/a", Version: "Feature.x"}},
		{"example.com/a/@v/v2.0.0.info", request.Request{Kind: request.Info, Module: "example.com/a", Version: "v2.0.0"}},
		{"example.com/a/@v/v2.0.0+incompatible.mod", request.Request{Kind: request.Mod, Module: "example.com/a", Version: "v2.0.0+incompatible"}},
		{"example.com/a/v2/@v/v2.0.0.zip", request.Request{Kind: request.Zip, Module: "example.com/a/v2", Version: "v2.0.0"}},
		{"example.com/a/@v/v0.0.0-20200101000000-abcdefabcdef.zip", request.Request{Kind: request.Zip, Module: "example.com/a", Version: "v0.0.0-20200101000000-abcdefabcdef"}},
		{"golang.org/toolchain/@v/v0.0.1-go1.26.8.linux-amd64.zip", request.Request{Kind: request.Zip, Module: "golang.org/toolchain", Version: "v0.0.1-go1.26.8.linux-amd64"}},
		{"gopkg.in/yaml.v3/@v/v3.0.1.mod", request.Request{Kind: request.Mod, Module: "gopkg.in/yaml.v3", Version: "v3.0.1"}},
		{"sumdb/sum.golang.org/supported", request.Request{Kind: request.SumDBSupported, Database: "sum.golang.org"}},
		{"sumdb/sum.corp.example/2/supported", request.Request{Kind: request.SumDBSupported, Database: "sum.corp.example/2"}},
		{"sumdb/sum.golang.org/latest", request.Request{Kind: request.SumDBLatest, Database: "sum.golang.org"}},
		{"sumdb/sum.golang.org/lookup/github.com/!burnt!sushi/toml@v1.0.0", request.Request{Kind: request.SumDBLookup, Database: "sum.golang.org", Module: "github.com/BurntSushi/toml", Version: "v1.0.0"}},
		{"sumdb/sum.golang.org/lookup/example.com/tile/x@v1.0.0", request.Request{Kind: request.SumDBLookup, Database: "sum.golang.org", Module: "example.com/tile/x", Version: "v1.0.0"}},
		{"sumdb/sum.golang.org/tile/8/0/x001/234", request.Request{Kind: request.SumDBTile, Database: "sum.golang.org", Tile: tlog.Tile{H: 8, L: 0, N: 1234, W: 256}}},
		{"sumdb/sum.golang.org/tile/8/2/004.p/71", request.Request{Kind: request.SumDBTile, Database: "sum.golang.org", Tile: tlog.Tile{H: 8, L: 2, N: 4, W: 71}}},
		{"sumdb/sum.golang.org/tile/8/data/004.p/71", request.Request{Kind: request.SumDBTile, Database: "sum.golang.org", Tile: tlog.Tile{H: 8, L: -1, N: 4, W: 71}}},
	} {
		got, err := request.Parse(tt.path)
		if err != nil || got != tt.want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", tt.path, got, err, tt.want)
		}
		if back := got.Path(); back != tt.path {
			t.Errorf("Parse(%q).Path() = %q", tt.path, back)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"", "/", "example.com/a", "example.com/a/", "/example.com/a/@v/list", "example.com/a/@v/", "example.com/a/@v/list/",
		"example.com/a/@v/v1.0.0", "example.com/a/@v/v1.0.0.tar", "example.com/a/@v/.info", "example.com/a/@v/.mod",
		"example.com/A/@v/list",                         // upper case must be escaped
		"example.com/!A/@v/list",                        // and only letters can be
		"example.com/a/@v/v1.0.0-Beta.info",             // in versions too
		"example.com/a/@v/v1.0.mod",                     // not canonical
		"example.com/a/@v/v1.0.0+meta.zip",              // build metadata is not part of a version
		"example.com/a/@v/v2.0.0.mod",                   // not a version of this path
		"example.com/a/v2/@v/v1.0.0.zip",                //
		"example.com/a/@v/v2.0.0+incompatible/../x.mod", //
		"example.com/a/@v/master.zip",                   //
		"example.com/a/@v/feature/x.info",               // a slash
		"example.com/../a/@v/list", "../etc/passwd/@v/list", "example.com/a/@v/../../x.info",
		"example.com//a/@v/list", "example.com/a%2fb/@v/list", "example.com/%21a/@v/list", "example/@v/list", "-x.example/a/@v/list",
		"example.com/-a/@latest/@v/list", "example.com/a\x00/@v/list", "example.com/a\n/@v/list", "example.com/a/@v/\x00.info", "exämple.com/a/@v/list",
		"example.com/a/@v/list?x", "example.com/a/@v/..info", "example.com/a@v1.0.0/@v/list",
		"example.com/a/@v/latest.info", "example.com/a/@v/upgrade.info", "example.com/a/@v/patch.info", "example.com/a/@v/none.info", // queries
		"sumdb", "sumdb/", "sumdb//supported", "sumdb/supported", "sumdb/a/../b/supported", "sumdb/a+b/supported", "sumdb/a b/latest",
		"sumdb/x/lookup/", "sumdb/x/lookup/example.com/a", "sumdb/x/lookup/example.com/a@", "sumdb/x/lookup/@v1.0.0", "sumdb/x/lookup/example.com/a@master",
		"sumdb/x/lookup/example.com/A@v1.0.0", "sumdb/x/lookup/example.com/a@v1.0.0/go.mod", "sumdb/x/lookup/example.com/a@v1.0.0@v1.0.0",
		"sumdb/x/tile/8/0/1", "sumdb/x/tile/8/0/001.p/256", "sumdb/x/tile/8/0/001.p/0", "sumdb/x/tile/4/0/001", "sumdb/x/tile/30/0/001", "sumdb/x/tile/8/-1/001", "sumdb/x/tile/8/99/001",
		"sumdb//tile/8/0/001", "sumdb//lookup/example.com/a@v1.0.0", "sumdb/x/other",
		strings.Repeat("a", 70000),
	} {
		if got, err := request.Parse(path); err == nil {
			t.Errorf("Parse(%.80q) = %+v, want an error", path, got)
		}
	}
}

// What Parse accepts has one spelling, so that a key, a pattern and an
// upstream always mean the same thing.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"example.com/a/@v/list", "github.com/!burnt!sushi/toml/@v/v1.0.0.info", "example.com/a/@v/master.info", "example.com/a/@latest",
		"example.com/a/@v/v2.0.0+incompatible.mod", "example.com/a/v2/@v/v2.0.0.zip", "sumdb/sum.golang.org/supported",
		"sumdb/a/b/latest", "sumdb/x/lookup/example.com/a@v1.0.0", "sumdb/x/tile/8/0/x001/234.p/5", "sumdb/x/tile/8/data/004", "sumdb/x/tile/8/8/000",
		"sumdb/lookup/tile/8/0/000", "example.com/!a/@v/!b.info", "..", "sumdb/x/tile/lookup/a.b@v1.0.0", "a.b/@v/@latest",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, err := request.Parse(path)
		if err != nil {
			return
		}
		if back := r.Path(); back != path {
			t.Fatalf("Parse(%q) = %+v, whose Path is %q", path, r, back)
		}
		if r.Kind == request.Mod || r.Kind == request.Zip || r.Kind == request.SumDBLookup {
			if err := module.Check(r.Module, r.Version); err != nil || module.CanonicalVersion(r.Version) != r.Version {
				t.Fatalf("Parse(%q) = %+v: %v", path, r, err)
			}
		}
		for element := range strings.SplitSeq(path, "/") {
			if element == "" || element == "." || element == ".." {
				t.Fatalf("Parse(%q) accepted the element %q", path, element)
			}
		}
	})
}
