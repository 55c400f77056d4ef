package privacy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/privacy"
)

func TestAround(t *testing.T) {
	for _, test := range []struct {
		rules string
		want  []string
	}{
		{"go.corp.example/pay=pay", nil},
		{"go.corp.example/pay=pay,git.corp.example=dev|pay", []string{"go.corp.example/pay git.corp.example"}},
		{"go.corp.example/pay=pay,*.corp.example=dev", []string{"go.corp.example/pay *.corp.example"}},
		{"go.corp.example/pay=pay|ops,go.corp.example/lib=pay", []string{"go.corp.example/lib go.corp.example/pay"}},
		{"go.corp.example/pay=pay,git.corp.example=anyone", []string{"go.corp.example/pay git.corp.example"}},
		{"go.corp.example/pay=pay,git.corp.example/pay=pay,git.corp.example=dev|pay", nil},
		{"git.corp.example/pay=pay,git.corp.example=dev|pay", nil},
		{"go.corp.example/pay=pay,other.example=dev", nil},
		{"go.corp.example/open=anyone,git.corp.example=dev", nil},
	} {
		p, err := new(privacy.Policy).Restrict(test.rules)
		if err != nil {
			t.Fatal(err)
		}
		around := p.Bypasses([]string{"git.corp.example"}, func(pattern string) bool { return pattern != "other.example" })
		var got []string
		for _, rule := range slices.Sorted(maps.Keys(around)) {
			for _, other := range around[rule] {
				got = append(got, rule+" "+other)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.rules, got, test.want)
		}
	}
}

// anyone is satisfied by every reader and counts as a rule.
func TestAnyone(t *testing.T) {
	p, err := new(privacy.Policy).Restrict("corp.example=anyone,corp.example/pay=pay")
	if err != nil {
		t.Fatal(err)
	}
	nobody := func(string) bool { return false }
	for path, want := range map[string][2]bool{"corp.example/lib": {true, true}, "corp.example/pay": {true, false}, "other.example/x": {false, true}} {
		if covered, allowed := p.MayRead(path, nobody); covered != want[0] || allowed != want[1] {
			t.Errorf("Read(%q) = %v, %v, want %v", path, covered, allowed, want)
		}
	}
	rules := p.Rules(slices.Values([]string{"corp.example/x", "corp.example/y", "corp.example/pay.git"}))
	if len(rules) != 2 || rules.Allowed(nobody) || !rules.Allowed(func(group string) bool { return group == "pay" }) {
		t.Errorf("rules %v", rules)
	}
	if _, err := new(privacy.Policy).Restrict("corp.example=a,b"); err == nil || !strings.Contains(err.Error(), "write |b") {
		t.Errorf("a comma for a bar: %v", err)
	}
}
