package main_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/bolt"
)

// shift makes the lists that a stopped server has stored older, or younger, as if the clock had
// been set meanwhile.
func (p *privateServer) shift(by time.Duration, keys ...string) {
	p.t.Helper()
	store, err := bolt.Open(p.data, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer store.Close()
	for _, key := range keys {
		state, err := store.State(p.t.Context(), key)
		if err != nil {
			p.t.Fatal(err)
		}
		millis, body, _ := bytes.Cut(state, []byte("\n"))
		if _, err := strconv.ParseInt(string(millis), 10, 64); err != nil {
			p.t.Fatal(err)
		}
		state = fmt.Appendf(nil, "%d\n%s", time.Now().Add(by).UnixMilli(), body)
		if err := store.SetState(p.t.Context(), key, state); err != nil {
			p.t.Fatal(err)
		}
	}
}

// list returns the list of a module, which must exist.
func (p *privateServer) list(path string) string {
	p.t.Helper()
	p.mu.Lock()
	clear(p.whole) // lists change
	p.mu.Unlock()
	body, status, err := p.get(path)
	if err != nil || status != http.StatusOK {
		p.t.Errorf("%s: %d %s %v", path, status, body, err)
	}
	return string(body)
}

// After the clock is set, in either direction, no list counts as current forever, and none is lost
// while its host is down.
func TestClock(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.args = append(p.args, "--hook-secret-file", secret)
	repo := p.code.Module("clock")
	const private, public = vcstest.PageHost + "/clock/@v/list", "example.com/p0/@v/list"
	tag := func(version string) {
		repo.Commit("-- go.mod --\nmodule corp.example/clock\n-- " + version + " --\n")
		repo.Tag(version)
	}
	tag("v1.0.0")
	cmd := p.start()
	p.list(private)
	p.list(public)
	if _, status, _ := p.get(vcstest.PageHost + "/clock/@v/v1.0.0.info"); status != http.StatusOK {
		t.Fatal("no version")
	}
	for i, by := range []time.Duration{48 * time.Hour, 2 * time.Minute, -30 * 24 * time.Hour} {
		kill(t, cmd)
		p.shift(by, "private/"+private, public)
		version := fmt.Sprintf("v1.%d.0", i+1)
		tag(version)
		cmd = p.start()
		if list := p.list(private); !strings.Contains(list, version) {
			t.Errorf("%v off, the list is %q, without %s", by, list, version)
		}
		p.list(public)

		// The host is down.
		kill(t, cmd)
		p.shift(by, "private/"+private, public)
		p.code.Status(http.StatusServiceUnavailable)
		cmd = p.start("--upstream", "http://127.0.0.1:1")
		if list := p.list(private); !strings.Contains(list, "v1.0.0") {
			t.Errorf("%v off, and the host is down: %q", by, list)
		}
		p.code.Status(0)
	}

	// A list with a smaller error counts as current, until a webhook arrives.
	kill(t, cmd)
	p.shift(50*time.Second, "private/"+private)
	tag("v1.9.0")
	cmd = p.start()
	if list := p.list(private); strings.Contains(list, "v1.9.0") {
		t.Errorf("the list is %q", list)
	}
	p.push(repo.URL())
	list := p.list(private)
	for begin := time.Now(); !strings.Contains(list, "v1.9.0") && time.Since(begin) < 40*time.Second; { // on a slow machine the old list is served meanwhile
		list = p.list(private)
	}
	if !strings.Contains(list, "v1.9.0") {
		t.Errorf("after a push the list is %q", list)
	}
	kill(t, cmd)
}

// push sends a webhook for a repository.
func (p *privateServer) push(url string) {
	p.t.Helper()
	r, err := http.NewRequest(http.MethodPost, p.url+"/-/hooks/gitlab", strings.NewReader(fmt.Sprintf(`{"project":{"git_http_url":%q}}`, url)))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("X-Gitlab-Token", "0123456789abcdef")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		p.t.Errorf("the hook: %s", resp.Status)
	}
}
