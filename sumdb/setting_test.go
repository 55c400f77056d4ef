package sumdb_test

import (
	"net/url"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

const publicKey = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

func TestParseGOSUMDB(t *testing.T) {
	t.Parallel()
	key := sumdbtest.NewLog(t, "sum.corp.example/2").Key()
	public := sumdb.Setting{Name: "sum.golang.org", Key: publicKey, URL: "https://sum.golang.org"}
	elsewhere := public
	elsewhere.URL, elsewhere.Direct = "https://sum.golang.google.cn", true
	for value, want := range map[string]sumdb.Setting{
		"":                     public,
		"off":                  {Off: true},
		"sum.golang.org":       public,
		publicKey:              public,
		"sum.golang.google.cn": elsewhere,
		"sum.golang.org https://sum.golang.google.cn": elsewhere,
		publicKey + "  https://sum.golang.google.cn ": elsewhere,
		key:                               {Name: "sum.corp.example/2", Key: key, URL: "https://sum.corp.example/2"},
		key + " http://127.0.0.1:3000/db": {Name: "sum.corp.example/2", Key: key, URL: "http://127.0.0.1:3000/db", Direct: true},
		key + " file:///srv/sumdb":        {Name: "sum.corp.example/2", Key: key, URL: "file:///srv/sumdb", Direct: true},
	} {
		got, err := sumdb.ParseGOSUMDB(value)
		if err != nil {
			t.Errorf("ParseGOSUMDB(%q): %v", value, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseGOSUMDB(%q), want - got +\n%s", value, diff)
		}
	}
}

func TestParseGOSUMDBErrors(t *testing.T) {
	t.Parallel()
	slash, err := note.NewEd25519VerifierKey("sum.corp.example/", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	query, err := note.NewEd25519VerifierKey("sum.corp.example?x", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	dots, err := note.NewEd25519VerifierKey("sum.corp.example/../x", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	key := sumdbtest.NewLog(t, "sum.corp.example").Key()
	for _, value := range []string{
		dots, " ", "on", "OFF", "off https://sum.golang.org", "sum.corp.example", slash, query, key + "x", strings.Replace(key, "+", "", 1),
		key + " https://a.example https://b.example", key + " ftp://a.example", key + " a.example", key + " https://", key + " ://", key + " file://x",
		"sum.golang.google.cn https://sum.golang.google.cn",
	} {
		got, err := sumdb.ParseGOSUMDB(value)
		if err == nil {
			t.Errorf("ParseGOSUMDB(%q) = %+v, want an error", value, got)
			continue
		}
		if !strings.Contains(err.Error(), "allowed are") {
			t.Errorf("ParseGOSUMDB(%q) = %q, which does not say what is allowed", value, err)
		}
	}
}

func TestParseGOSUMDBHidesPasswords(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"ftp://user:secret@a.example", "ftp://user:an@secret@a.example", "https://user:an@secret@a.example too many"} {
		_, err := sumdb.ParseGOSUMDB("sum.golang.org " + base)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v", err)
		}
	}
}

func FuzzParseGOSUMDB(f *testing.F) {
	for _, seed := range []string{
		"", "off", "sum.golang.org", "sum.golang.google.cn", publicKey, publicKey + " https://sum.golang.google.cn",
		"sum.golang.org http://localhost:1/x", "a+b+c", "a b c", publicKey + " file:///x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		s, err := sumdb.ParseGOSUMDB(value)
		if err != nil || s.Off {
			return
		}
		if v, err := note.NewVerifier(s.Key); err != nil || v.Name() != s.Name {
			t.Errorf("%+v: key %v", s, err)
		}
		if u, err := url.Parse(s.URL); err != nil || u.Scheme == "" {
			t.Errorf("%+v: URL %v", s, err)
		}
		again, err := sumdb.ParseGOSUMDB(s.Key + " " + s.URL)
		if s.Direct && (err != nil || again != s) {
			t.Errorf("%+v parses to %+v, %v", s, again, err)
		}
	})
}
