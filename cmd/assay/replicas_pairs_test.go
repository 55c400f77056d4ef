package main_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// A module becomes private, and then restricted, at one of two servers that share a bucket: what one has stored for
// itself the other one does not serve as something else, and after the reload of both it is hidden at both.
func TestReloadOfOneReplica(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no SIGHUP")
	}
	p := newPrivateServer(t)
	store, key := bucketURL(s3test.Start(t).URL), filepath.Join(t.TempDir(), "key")
	p.createLog(store, key)
	m := p.versions[0]
	zip := m.Path + "/@v/" + m.Version + ".zip"
	start := func(settings string) *replica { return p.startReplica(store, key, t.TempDir(), settings) }
	const private = "private = '" + vcstest.PageHost + "'\n"
	const restricted = private + "access = '" + vcstest.PageHost + "=team'\n"
	one, two := start(private), start("")
	want := func(when string, r *replica, path string, statuses ...int) {
		t.Helper()
		got, body := assaytest.Fetch(t, r.url+"/"+path)
		if slices.Contains(statuses, got) {
			return
		}
		t.Errorf("%s: %s is %d, want %v\n%.200s", when, path, got, statuses, body)
	}
	want("private", one, zip, http.StatusOK)
	want("not private yet", two, zip, http.StatusNotFound)
	want("not private yet", two, "cached-only/"+zip, http.StatusNotFound)
	if _, list := assaytest.Fetch(t, two.url+"/cached-only/"+m.Path+"/@v/list"); strings.Contains(list, m.Version) {
		t.Errorf("a server for which the module is public lists what another one has pinned: %q", list)
	}
	two.hangup(private)
	want("private at both", two, zip, http.StatusOK)
	want("private at both", two, zip, http.StatusOK) // from memory
	one.hangup(restricted)
	hidden := []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound}
	for _, path := range []string{zip, "cached-only/" + zip, m.Path + "/@v/list", "sumdb/sum.corp.example/lookup/" + m.String()} {
		want("restricted", one, path, hidden...)
	}
	two.hangup(restricted)
	for _, path := range []string{zip, "cached-only/" + zip, m.Path + "/@v/list", "sumdb/sum.corp.example/lookup/" + m.String()} {
		want("restricted at both", two, path, hidden...)
	}
	// Open again at one of them only.
	one.hangup(private)
	want("open at one", one, zip, http.StatusOK)
	want("restricted at the other one", two, zip, hidden...)
}

// replica is a server of a bucket, with a file of settings that can change.
type replica struct {
	t         *testing.T
	url, file string
	cmd       *exec.Cmd
}

// startReplica starts a server with the settings, in a directory, on a store with an own log of this key.
func (p *privateServer) startReplica(store, key, dir, settings string) *replica {
	p.t.Helper()
	r := &replica{t: p.t, file: filepath.Join(dir, "assay.toml")}
	r.write(settings)
	r.url, r.cmd = startProcessIn(p.t, append(p.env, bucketEnv...), p.program, "--config", r.file, "--data", filepath.Join(dir, "data"),
		"--store", store, "--log-key", key, "--unified", "--upstream", argument(p.args, "--upstream"),
		"--sumdb", argument(p.args, "--sumdb"), "--ca-file", argument(p.args, "--ca-file"))
	p.t.Cleanup(func() { _ = r.cmd.Wait() })
	p.t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	return r
}

func (r *replica) write(settings string) {
	r.t.Helper()
	if err := os.WriteFile(r.file, []byte(settings), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// hangup makes the server load other settings.
func (r *replica) hangup(settings string) {
	r.t.Helper()
	r.write(settings)
	_, before := assaytest.Fetch(r.t, r.url+"/metrics")
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	assaytest.WaitFor(r.t, func() bool {
		_, now := assaytest.Fetch(r.t, r.url+"/metrics")
		return loaded(now) != loaded(before)
	})
}

// createLog makes an own log in a store.
func (p *privateServer) createLog(store, key string) {
	p.t.Helper()
	create := assay(p.program, "log", "create", "--log-key", key, "--log-name", "sum.corp.example", "--store", store, "--data", p.t.TempDir())
	create.Env = append(create.Env, bucketEnv...)
	if out, err := create.CombinedOutput(); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
}

// argument returns the value of an option.
func argument(args []string, name string) string {
	for i, arg := range args {
		if arg == name {
			return args[i+1]
		}
	}
	return ""
}

// loaded returns when the settings were loaded, as the metrics say it, and whether that was successful.
func loaded(metrics string) string {
	var b strings.Builder
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "assay_config_last_reload") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// away returns how much longer than usual a bucket is away: as long as the variable AWAY says.
func away(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("AWAY")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("AWAY: %v", err)
	}
	return d
}

// The bucket is away for long, with clients all the time: hits come from local copies, all else is a 503 that says why;
// when it is back nothing delays what was asked for meanwhile: no absence, no breaker, no lease, no lost push, at any
// server. AWAY=1h keeps it away for an hour.
func TestBucketAwayForLong(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	world.Add(modulesArchive(t))
	paths := world.AddBig(1, 1<<20)
	objects := s3test.Start(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef0123"), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(upstream string) string {
		url, cmd := startProcessIn(t, bucketEnv, program, "--data", t.TempDir(), "--store", bucketURL(objects.URL), "--upstream", upstream,
			"--sumdb", world.GOSUMDB(), "--fresh", "1ms", "--hook-secret-file", secret)
		t.Cleanup(func() { _ = cmd.Wait() })
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return url
	}
	one, two := start(world.URL("gated")), start(world.URL("ok"))
	awaitLook(t, one)
	awaitLook(t, two)
	const held, absent, list = "example.com/greet/@v/v1.2.0.mod", "example.com/none/@v/v1.0.0.info", "example.com/greet/@v/list"
	for _, path := range []string{held, "example.com/greet/@v/v1.2.0.info", list} {
		for _, url := range []string{one, two} {
			if status, body := assaytest.Fetch(t, url+"/"+path); status != http.StatusOK {
				t.Fatalf("%s: %d %s", path, status, body)
			}
		}
	}
	// A zip is being fetched by the first server, which has the lease, when the bucket goes away.
	before := world.Count(paths[0])
	fetching := make(chan bool, 1)
	go func() { fetching <- fetchWhole(t, world, one, paths[0]) }()
	assaytest.WaitFor(t, func() bool { return world.Count(paths[0]) > before })

	objects.Fail(func(s3test.Request) s3test.Fault {
		return s3test.Fault{Before: http.StatusServiceUnavailable, Code: "SlowDown"}
	})
	var clients sync.WaitGroup
	for _, url := range []string{one, two} {
		for range 12 {
			clients.Go(func() {
				for _, path := range []string{absent, "example.com/hello/@v/v1.1.0.mod", "example.com/greet/@v/v1.3.0-beta.1.zip"} {
					status, body := assaytest.Fetch(t, url+"/"+path)
					if status != http.StatusServiceUnavailable || !strings.Contains(body, "object store of this proxy cannot be used") {
						t.Errorf("%s: %d %q, want 503 and why", path, status, body)
					}
				}
				for range 20 {
					if status, body := assaytest.Fetch(t, url+"/"+held); status != http.StatusOK {
						t.Errorf("%s, which is held: %d %q", held, status, body)
					}
				}
			})
		}
	}
	clients.Wait()
	for end := time.Now().Add(away(t)); time.Now().Before(end); time.Sleep(10 * time.Second) {
		for _, url := range []string{one, two} {
			if status, body := assaytest.Fetch(t, url+"/"+held); status != http.StatusOK {
				t.Fatalf("%s: %d %q", held, status, body)
			}
			if status, body := assaytest.Fetch(t, url+"/"+absent); status != http.StatusServiceUnavailable {
				t.Fatalf("%s: %d %q", absent, status, body)
			}
		}
	}
	if status, body := push(t, two); status != http.StatusServiceUnavailable {
		t.Errorf("a push: %d %s, want 503, so that the code host sends it again", status, body)
	}
	world.OpenGate()
	<-fetching
	world.AddModule(module.Version{Path: "example.com/greet", Version: "v1.9.0"}, []txtar.File{{Name: "go.mod", Data: []byte("module example.com/greet\n")}})
	world.AddModule(module.Version{Path: "example.com/none", Version: "v1.0.0"}, []txtar.File{{Name: "go.mod", Data: []byte("module example.com/none\n")}})

	objects.Fail(nil)
	for _, url := range []string{one, two} {
		for _, path := range []string{absent, "example.com/hello/@v/v1.1.0.mod", "example.com/greet/@v/v1.3.0-beta.1.zip", paths[0], held} {
			assaytest.WaitFor(t, func() bool { return fetchWhole(t, world, url, path) })
		}
		assaytest.WaitFor(t, func() bool {
			status, body := assaytest.Fetch(t, url+"/"+list)
			return status == http.StatusOK && strings.Contains(body, "v1.9.0")
		})
	}
	if status, body := push(t, two); status != http.StatusOK {
		t.Errorf("the push again: %d %s", status, body)
	}
}

// push sends a webhook of a push.
func push(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url+"/-/hooks/gitlab", strings.NewReader(`{"object_kind":"tag_push","project":{"git_http_url":"https://git.corp.example/lib.git"},"repository":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Gitlab-Token", "0123456789abcdef0123")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body strings.Builder
	_ = resp.Write(&body)
	return resp.StatusCode, body.String()
}
