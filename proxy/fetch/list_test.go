package fetch_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/fetch"
)

func TestParseList(t *testing.T) {
	for _, test := range []struct{ list, want string }{
		{"https://proxy.example", "https://proxy.example;"},
		{"https://a.example,http://b.example|file:///srv/x", "https://a.example; http://b.example| file:///srv/x;"},
		{" a.example/goproxy , b.example:8080 ", "https://a.example/goproxy; https://b.example:8080;"},
		{",|, https://a.example |,| ", "https://a.example|"},
		{"https://a.example,off", "https://a.example; off;"},
		{"off", "off;"},
		{"off,direct", "off;"},
		{"off|://nonsense", "off;"},
		{"direct", "direct;"},
		{"https://a.example|direct,https://b.example", "https://a.example| direct;"},
		{"http://[::1]:3000/x", "http://[::1]:3000/x;"},
		{"https://user:secret@a.example?token=secret#secret", "https://a.example;"},
		{"user:secret@a.example/x", "https://a.example/x;"},
		{"http://user:secret@127.0.0.1:3000", "http://127.0.0.1:3000;"},
		{"file:///a%20b", "file:///a%20b;"},
	} {
		entries, err := fetch.ParseList(test.list)
		var got []string
		for _, e := range entries {
			got = append(got, e.String()+map[bool]string{true: "|", false: ";"}[e.AnyError])
		}
		if s := strings.Join(got, " "); err != nil || s != test.want {
			t.Errorf("ParseList(%q): %q, %v, want %q", test.list, s, err, test.want)
		}
	}
}

func TestParseListErrors(t *testing.T) {
	for _, test := range []struct{ list, want string }{
		{"", "no entries"},
		{" ", "no entries"},
		{",|,", "no entries"},
		{"noproxy", "no scheme"},
		{"Off", "no scheme"},
		{"/srv/modules", "file:///"},
		{"ftp://a.example", "https, http or file"},
		{"a.example:x/y", "not a URL"},
		{"https://", "no host"},
		{"https:///x", "no host"},
		{"https:a.example", "not a URL"}, // as a bare host it has a bad port
		{"file://host/srv", "a path and nothing else"},
		{"file:///srv?x=secret", "a path and nothing else"},
		{"file:srv", "not a URL"},
		{"file://", "a path and nothing else"},
		{"http://user:secret@a.example", "https"},
		{"https://user:sec/ret@a.example", "not a URL"},
		{"https://user:secret", "not a URL"},
		{"https://user:secret%zz@a.example", "not a URL"},
		{"https://ok.example,https://user:secret@[a.example", "entry 2"},
		{"https://a.example?x token=secret", "white space"},
	} {
		_, err := fetch.ParseList(test.list)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "sec") {
			t.Errorf("ParseList(%q): %v, want an error with %q and without credentials", test.list, err, test.want)
		}
		if _, err := fetch.New(fetch.Config{List: test.list}); err == nil {
			t.Errorf("New(%q): no error", test.list)
		}
	}
}

func TestRedact(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"off", "off"},
		{"https://a.example,http://b.example:80/x|file:///srv", "https://a.example,http://b.example:80/x|file:///srv"},
		{"https://user:secret@a.example/x?secret=1#secret|b.example", "https://a.example/x|b.example"},
		{"user:secret@a.example, secret@b.example/x", "a.example, b.example/x"},
		{"sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8", "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"},
		{"sum.example+12+AB https://user:secret@sum.example", "sum.example+12+AB https://sum.example"},
		{"https://user:sec/ret@a.example", "(malformed)"},
		{"https://user:secret%zz@a.example", "(malformed)"},
		{"https://a.example/x@v1", "https://a.example/x@v1"},
	} {
		if got := fetch.Redact(test.text); got != test.want {
			t.Errorf("Redact(%q) = %q, want %q", test.text, got, test.want)
		}
	}
}

func FuzzParseList(f *testing.F) {
	for _, s := range []string{
		"https://proxy.example,direct", "a.example|file:///srv,off", "https://u:p@h.example/x?y#z", ",|,", "http://[::1%25eth0]:80",
		"user:pa/ss@h", "file://h/x", "https://u:p%40@127.0.0.1:80|http://u@localhost", "h:80", "ftp://x", "\x00", "https://h/%2f@x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		entries, err := fetch.ParseList(list)
		if err != nil {
			if entries != nil {
				t.Errorf("ParseList(%q): entries and an error", list)
			}
			return
		}
		text := fetch.FormatList(entries)
		again, err := fetch.ParseList(text)
		if err != nil {
			t.Fatalf("ParseList(%q) is %q, which is no list: %v", list, text, err)
		}
		if len(again) != len(entries) || fetch.FormatList(again) != text {
			t.Errorf("ParseList(%q) is %q, which is %q", list, text, fetch.FormatList(again))
		}
		for i, e := range entries {
			if e.Off != again[i].Off || e.Direct != again[i].Direct || i < len(entries)-1 && e.AnyError != again[i].AnyError {
				t.Errorf("ParseList(%q): entry %d is another one after a round trip", list, i)
			}
			if e.URL == nil {
				continue
			}
			if again[i].URL.User != nil || again[i].URL.RawQuery != "" {
				t.Errorf("%q: String keeps credentials: %q", list, e)
			}
		}
	})
}

// The output of Redact must not contain a password that ParseList would find.
func FuzzRedact(f *testing.F) {
	f.Add("https://u:topsecret@h.example/x,u:topsecret@h")
	f.Add("x+y+z https://u:topsecret@h")
	f.Fuzz(func(t *testing.T, list string) {
		redacted := fetch.Redact(list)
		entries, err := fetch.ParseList(redacted)
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.URL != nil && (e.URL.User != nil || e.URL.RawQuery != "") {
				t.Errorf("Redact(%q) = %q, which has credentials", list, redacted)
			}
		}
	})
}

func TestSelf(t *testing.T) {
	own := "192.0.2.1" // an address of this machine that is not loopback, if it has one
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			own = ip.IP.String()
		}
	}
	for _, test := range []struct {
		list string
		self []string
		loop bool
	}{
		{"http://localhost:3000", []string{"localhost:3000"}, true},
		{"http://LocalHost:3000/x", []string{"localhost:3000"}, true},
		{"http://127.0.0.1:3000", []string{"localhost:3000"}, true},
		{"http://127.0.0.1:3000", []string{":3000"}, true},
		{"http://127.0.0.2:3000", []string{"0.0.0.0:3000"}, true},
		{"http://[::1]:3000", []string{"[::]:3000"}, true},
		{"http://[::ffff:127.0.0.1]:3000", []string{":3000"}, true},
		{"http://0.0.0.0:3000", []string{"127.0.0.1:3000"}, true},
		{"https://proxy.corp.example", []string{"proxy.corp.example:443"}, true},
		{"http://proxy.corp.example", []string{"proxy.corp.example:80"}, true},
		{"http://" + own + ":3000", []string{":3000"}, own != "192.0.2.1"},
		{"http://192.0.2.7:3000", []string{"192.0.2.7:3000"}, true},
		{"https://a.example|http://user:secret@localhost:3000", []string{"1.2.3.4:1", "localhost:3000"}, true},
		{"http://192.0.2.7:3000", []string{":3000"}, false},
		{"http://localhost:3001", []string{"localhost:3000"}, false},
		{"http://localhost", []string{"localhost:3000"}, false},
		{"http://localhost:3000", []string{"localhost:0"}, false},
		{"http://localhost:3000", nil, false},
		{"http://localhost:3000", []string{"nonsense"}, false},
		{"http://a..b:3000", []string{"localhost:3000"}, false}, // cannot be resolved
		{"file:///srv", []string{"localhost:3000"}, false},
		{"off", []string{"localhost:3000"}, false},
	} {
		t.Run(fmt.Sprintf("%s at %s", test.list, test.self), func(t *testing.T) {
			_, err := fetch.New(fetch.Config{List: test.list, Self: test.self})
			if (err != nil) != test.loop {
				t.Fatalf("New: %v, a loop should be %v", err, test.loop)
			}
			if err != nil && (!strings.Contains(err.Error(), "itself") || strings.Contains(err.Error(), "secret") ||
				!slices.ContainsFunc(test.self, func(s string) bool { return strings.Contains(err.Error(), s) })) {
				t.Errorf("error is %v", err)
			}
		})
	}
}
