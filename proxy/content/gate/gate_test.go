package gate_test

import (
	"errors"
	"testing"

	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// A gate returns the upstreams, repositories and stores of the settings in force, and an
// error if these give the module to the other origin.
func TestGate(t *testing.T) {
	settings := func(list, patterns string) (*gate.Settings, *fetch.Chain) {
		chain, err := fetch.New(fetch.Config{List: list})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(chain.Close)
		policy, err := privacy.New(patterns)
		if err != nil {
			t.Fatal(err)
		}
		return gate.NewSettings(chain, policy, new(vcs.Source)), chain
	}
	before, _ := settings("http://127.0.0.1:1", "")
	after, chain := settings("http://127.0.0.1:2", "corp.example")
	inForce := before
	now := func() *gate.Settings { return inForce }
	public, private := gate.Public(now, gate.Outside{}), gate.Private(now, gate.Outside{})

	// ways returns the errors of all methods that lead outside.
	ways := func(g *gate.Gate, modulePath string) (errs []error) {
		_, err := g.Check(modulePath)
		errs = append(errs, err)
		_, _, err = g.Upstream(t.Context(), modulePath)
		errs = append(errs, err)
		_, err = g.Repository(modulePath)
		errs = append(errs, err)
		_, err = g.Log(modulePath)
		errs = append(errs, err)
		_, err = g.Store(modulePath)
		return append(errs, err)
	}
	want := func(g *gate.Gate, modulePath string, want error) {
		t.Helper()
		for i, err := range ways(g, modulePath) {
			if !errors.Is(err, want) {
				t.Errorf("way %d of %s: %v, want %v", i, modulePath, err, want)
			}
		}
		if _, _, err := g.Database(t.Context(), "sum.example", modulePath); errors.Is(err, gate.ErrReloaded) != (want != nil) {
			t.Errorf("database for %s: %v", modulePath, err)
		}
	}
	for _, modulePath := range []string{"corp.example/x", "example.com/x"} {
		want(public, modulePath, nil)
		want(private, modulePath, gate.ErrReloaded)
	}
	inForce = after
	want(public, "example.com/x", nil)
	want(private, "corp.example/x", nil)
	want(public, "corp.example/x", gate.ErrReloaded)
	want(private, "example.com/x", gate.ErrReloaded)
	for _, g := range []*gate.Gate{public, private} {
		if got := g.Outward("corp.example/x"); got != "" {
			t.Errorf("a private name leaves: %s", got)
		}
	}
	if got := public.Outward("example.com/x"); got != "example.com/x" {
		t.Errorf("the public name that leaves is %q", got)
	}
	inForce = before
	if got := public.Outward("corp.example/x"); got != "corp.example/x" {
		t.Errorf("before the reload the name that leaves is %q", got)
	}
	inForce = after
	if _, got, _ := public.Upstream(t.Context(), "example.com/x"); got != chain {
		t.Error("the upstream is that of the settings of before")
	}
}
