package proxy_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy"
)

// For an upstream without @latest the latest version follows from its list, by the rules
// of the go command.
func TestLatestOfList(t *testing.T) {
	t.Parallel()
	const p2018, p2019, p2020 = "v0.0.0-20180101000000-cccccccccccc", "v0.0.0-20190101000000-bbbbbbbbbbbb", "v0.0.0-20200101000000-aaaaaaaaaaaa"
	for name, tt := range map[string]struct{ list, mod, want string }{
		"pseudo-versions":                 {list: p2019 + "\n" + p2020 + "\n" + p2018 + "\n", want: p2020},
		"newest commit, not highest base": {list: "v1.0.1-0.20180101000000-cccccccccccc\n" + p2020, want: p2020},
		"with times, CRLF":                {list: p2019 + " 2019-01-01T00:00:00Z\r\n" + p2020 + " 2020-01-01T00:00:00Z\r\n", want: p2020},
		"a release":                       {list: p2020 + "\nv1.0.0\nv1.1.0-rc.1\n", want: "v1.0.0"},
		"a prerelease":                    {list: p2020 + "\nv1.1.0-rc.1\nv1.1.0-rc.2\n", want: "v1.1.0-rc.2"},
		"incompatible":                    {list: "v1.0.0\nv2.0.0+incompatible\n", mod: "module example.com/m\n", want: "v2.0.0+incompatible"},
		"compatible has go.mod":           {list: "v1.0.0\nv2.0.0+incompatible\n", mod: "module example.com/m\n\ngo 1.20\n", want: "v1.0.0"},
		"nothing usable":                  {list: "v2.0.0\nmaster\n"},
		"empty":                           {list: "\n"},
		"no list":                         {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			f := start(t, world, world.URL("ok"), verified())
			if tt.list != "" {
				world.Set("example.com/m/@v/list", []byte(tt.list))
			}
			if tt.mod != "" {
				world.Set("example.com/m/@v/v1.0.0.mod", []byte(tt.mod))
			}
			if tt.want == "" {
				f.wantStatus("example.com/m/@latest", http.StatusNotFound, "not found")
				return
			}
			world.Set("example.com/m/@v/"+tt.want+".info", []byte(`{"Version":"`+tt.want+`","Time":"2020-01-01T00:00:00Z"}`))
			var info struct{ Version string }
			a := f.get("example.com/m/@latest")
			if err := json.Unmarshal(a.body, &info); err != nil || info.Version != tt.want {
				t.Errorf("@latest = %v, want %s", a, tt.want)
			}
			world.ResetCounts()
			if a := f.get("example.com/m/@latest"); a.status != http.StatusOK || world.Count("*") != 0 {
				t.Errorf("asked again: %q", world.Paths())
			}
		})
	}
}

// A failure of the fetch is no absence, and a wrong info is not passed on.
func TestLatestOfListTrouble(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	f := start(t, world, world.URL("ok"), verified())
	world.Set("example.com/m/@v/list", []byte("v1.0.0\n"))
	world.Set("example.com/m/@v/v1.0.0.info", []byte(`{"Version":"v1.2.0"}`))
	f.wantStatus("example.com/m/@latest", http.StatusBadGateway, "v1.0.0", "v1.2.0")
	broken := start(t, world, world.URL("list-503"), option{database: true, budget: quick})
	broken.wantStatus("example.com/m/@latest", http.StatusBadGateway, "503")
}

// The separators of the upstream list apply: if an upstream has neither, the next one is
// asked; a tree of files is an upstream like others.
func TestLatestOfFiles(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	dir := t.TempDir()
	const version = "v0.0.0-20200101000000-aaaaaaaaaaaa"
	for name, content := range map[string]string{"list": version + "\n", version + ".info": `{"Version":"` + version + `","Time":"2020-01-01T00:00:00Z"}`} {
		name = filepath.Join(dir, "example.com", "tree", "@v", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := start(t, world, "file://"+filepath.ToSlash(dir)+","+world.URL("ok"), option{config: func(c *proxy.Config) { c.Content.Times.Fresh = time.Millisecond }})
	if a := f.get("example.com/tree/@latest"); !strings.Contains(string(a.body), version) {
		t.Errorf("of the tree: %v", a)
	}
	if a := f.get("example.com/hello/@latest"); string(a.body) != string(world.File("example.com/hello/@latest")) {
		t.Errorf("of the next upstream: %v", a)
	}
}
