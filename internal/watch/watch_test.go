package watch_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/internal/watch"
)

// pair is two files whose texts together are the value; the text "bad" is unusable.
type pair struct {
	t       *testing.T
	a, b    string
	value   *watch.Value[string]
	changed int
	failed  []error
}

func newPair(t *testing.T) *pair {
	dir := t.TempDir()
	p := &pair{t: t, a: filepath.Join(dir, "a"), b: filepath.Join(dir, "b")}
	p.write(p.a, "1")
	p.write(p.b, "2")
	p.value = watch.New(watch.Files[string]{
		Names: []string{p.a, p.b}, Load: p.load, Changed: func() { p.changed++ }, Failed: func(err error) { p.failed = append(p.failed, err) },
	})
	return p
}

func (p *pair) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) load() (made, sum string, err error) {
	a, err := os.ReadFile(p.a)
	if err != nil {
		return "", "", err
	}
	b, err := os.ReadFile(p.b)
	if err != nil {
		return "", "", err
	}
	text := string(a) + string(b)
	if string(a) == "bad" {
		return "", "", errors.New("a is bad")
	}
	return text, text, nil
}

// want checks the files once more, and compares the value and the reports so far.
func (p *pair) want(value string, changed, failed int) {
	p.t.Helper()
	time.Sleep(watch.Every)
	if got := p.value.Get(); got != value || p.changed != changed || len(p.failed) != failed {
		p.t.Errorf("%q, %d changes, failures %v, want %q, %d, %d", got, p.changed, p.failed, value, changed, failed)
	}
}

// A change of either file is noticed, and reported once; while one is bad or missing, the
// value stays, and the error is reported once too.
func TestValueFollowsFiles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		if got := p.value.Get(); got != "12" {
			t.Errorf("the first look: %q", got)
		}
		p.want("12", 1, 0)
		p.write(p.b, "3")
		if got := p.value.Get(); got != "12" {
			t.Errorf("a second look within %v: %q", watch.Every, got)
		}
		p.want("13", 2, 0)
		p.write(p.a, "bad")
		p.want("13", 2, 1)
		p.want("13", 2, 1)
		if err := os.Remove(p.a); err != nil {
			t.Fatal(err)
		}
		p.want("13", 2, 2)
		p.write(p.a, "1")
		p.want("13", 2, 2)
		p.write(p.a, "bad")
		p.want("13", 2, 3)
		p.write(p.a, "4")
		p.want("43", 3, 3)
	})
}

// A prepared value is in force only once it is committed; unusable files change nothing.
func TestPrepare(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	commit, err := p.value.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	commit()
	p.write(p.a, "2")
	commit, err = p.value.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	p.write(p.a, "bad")
	if _, err := p.value.Prepare(); err == nil {
		t.Error("bad files are prepared")
	}
	commit()
	if got := p.value.Get(); got != "22" {
		t.Errorf("%q, want what was committed", got)
	}
	var none watch.Value[string]
	if commit, err := none.Prepare(); err != nil || commit == nil || none.Get() != "" {
		t.Errorf("without files: %v, %q", err, none.Get())
	}
}
