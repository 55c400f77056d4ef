package proxy_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// Each origin lists the held versions of its own modules alone, with their sources and
// proofs.
func TestCatalog(t *testing.T) {
	t.Parallel()
	h := startPrivate(t, nil)
	h.code.Module("lib", lib)
	for _, path := range []string{
		"corp.example/lib/@v/v1.0.0.zip",
		"example.com/hello/@v/v1.1.0.info", "example.com/hello/@v/v1.0.0.info", "example.com/hello/@v/v1.0.0.mod", "example.com/hello/@v/v1.0.0.zip",
		"example.com/old/@v/v1.5.0.mod", // a version without an .info is unusable
		"example.com/!upper/@v/v1.0.0-!r!c.1.info",
	} {
		h.ok(path)
	}
	public, private := h.server.Content().Origin("example.com/hello").Catalog(), h.server.Content().Origin("corp.example/lib").Catalog()
	for _, test := range []struct {
		of       content.Catalog
		modules  []string
		module   string
		versions []string
	}{
		{public, []string{"example.com/Upper", "example.com/hello"}, "example.com/hello", []string{"v1.0.0", "v1.1.0"}},
		{private, []string{"corp.example/lib"}, "corp.example/lib", []string{"v1.0.0"}},
		{private, []string{"corp.example/lib"}, "example.com/hello", nil},
		{public, []string{"example.com/Upper", "example.com/hello"}, "corp.example/lib", nil},
	} {
		var modules []string
		for m, err := range test.of.Modules(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			modules = append(modules, m)
		}
		if slices.Sort(modules); !slices.Equal(modules, test.modules) {
			t.Errorf("modules %q, want %q", modules, test.modules)
		}
		if versions, err := test.of.Versions(t.Context(), test.module); err != nil || !slices.Equal(slices.Collect(versions.All()), test.versions) {
			t.Errorf("versions of %s: %q, %v, want %q", test.module, versions.Text(), err, test.versions)
		}
	}

	explain := func(of content.Catalog, path, version string) content.Explanation {
		t.Helper()
		e, err := of.Explain(t.Context(), module.Version{Path: path, Version: version})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := explain(private, "corp.example/lib", "v1.0.0")
	if len(e.Files) != 3 || !strings.Contains(e.Source, "lib.git") {
		t.Errorf("the private version: %+v", e)
	}
	for _, f := range e.Files {
		if f.Proof != "log.corp.example" {
			t.Errorf("%s is proved by %q", f.Key, f.Proof)
		}
	}
	e = explain(public, "example.com/hello", "v1.0.0")
	if len(e.Files) != 3 || e.Source != h.world.URL("ok") {
		t.Errorf("the public version: %+v", e)
	}
	for _, f := range e.Files {
		if want := proxytest.Database; !strings.HasSuffix(f.Key, ".info") && f.Proof != want {
			t.Errorf("%s is proved by %q, want %q", f.Key, f.Proof, want)
		}
	}
	if e := explain(public, "corp.example/lib", "v1.0.0"); len(e.Files) > 0 {
		t.Errorf("the public origin has the private version: %+v", e)
	}
	if e := explain(public, "example.com/none", "v1.0.0"); len(e.Files) > 0 || e.Source != "" {
		t.Errorf("a version that is not held: %+v", e)
	}
}
