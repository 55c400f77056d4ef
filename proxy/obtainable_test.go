package proxy_test

import (
	"testing"

	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage"
)

// Before an eviction the upstreams are asked: only a real .info says that the version can be fetched again, only 403, 404
// and 410 of all that are asked that it cannot, and everything else that it is not known.
func TestObtainable(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	zip := storage.Info{Key: "proved/" + proxytest.Database + "/example.com/hello/@v/v1.0.0.zip"}
	url := world.URL
	for name, want := range map[string]struct {
		list              string
		obtainable, known bool
	}{
		"it has it":                            {url("ok"), true, true},
		"404":                                  {url("404"), false, true},
		"410":                                  {url("410"), false, true},
		"403":                                  {url("403"), false, true},
		"the second one has it":                {url("404") + "," + url("ok"), true, true},
		"none has it":                          {url("404") + "," + url("410"), false, true},
		"only its repository has it":           {url("404") + ",direct", false, true},
		"it is away":                           {url("reset"), false, false},
		"errors":                               {url("500"), false, false},
		"it asks for fewer requests":           {url("429"), false, false},
		"the first one is away":                {url("503") + "," + url("ok"), false, false},
		"the first one is away, and passed by": {url("503") + "|" + url("ok"), true, true},
		"the one that may have it is away":     {url("503") + "|" + url("404"), false, false},
		"a page of another server":             {url("html"), false, false},
		"the .info of another version":         {url("wrong-info"), false, false},
		"no upstream":                          {"off", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, world, want.list, verified())
			got, err := f.server.Content().Obtainable(t.Context(), zip)
			if got != want.obtainable || (err == nil) != want.known {
				t.Errorf("obtainable from %s: %t, %v, want %t, known %t", want.list, got, err, want.obtainable, want.known)
			}
		})
	}
}
