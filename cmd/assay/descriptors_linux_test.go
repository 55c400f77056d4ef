package main_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sys/unix"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// limited returns a command that runs the program with a limit of descriptors.
func limited(program, limit string, args ...string) *exec.Cmd {
	cmd := assay(program)
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", "ulimit " + limit + ` && exec "$0" "$@"`, "assay"}, args...)
	// testscript.Main chooses what the test binary does by its name.
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(program)+string(os.PathListSeparator)+os.Getenv("PATH"))
	return cmd
}

// linked links the test binary as the program assay in a directory of its own.
func linked(t *testing.T) (program string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(t.TempDir(), "assay")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	return program
}

// The soft limit is raised to the hard one, and logged.
func TestDescriptorLimitRaised(t *testing.T) {
	t.Parallel()
	var hard unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &hard); err != nil {
		t.Fatal(err)
	}
	cmd := limited(linked(t), "-S -n 64", "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir(), "--upstream", "off", "--sumdb", "off")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	text := make([]byte, 64<<10)
	n, err := io.ReadAtLeast(log, text, 100)
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`descriptors=(\S+)`).FindSubmatch(text[:n])
	if got == nil || string(got[1]) != fmt.Sprint(hard.Max) && string(got[1]) != fmt.Sprint(hard.Max-1) { // Go may reserve one descriptor in order to recognize its own limit
		t.Errorf("want descriptors=%d in the log: %s", hard.Max, text[:n])
	}
}

// Connections use only a part of the descriptors: a client beyond that gets a response that says
// so, and fetches for the others have their descriptors.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	world.Add("-- example.com/a@v1.0.0/go.mod --\nmodule example.com/a\n")
	dir := t.TempDir()
	if err := assaytest.WriteCertificate(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), "localhost"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {"--tls-cert", filepath.Join(dir, "cert"), "--tls-key", filepath.Join(dir, "key")}} {
		cmd := limited(linked(t), "-n 120", append([]string{"serve", "--listen", "127.0.0.1:0", "--access-log=false", "--data", t.TempDir(),
			"--upstream", world.URL("hang-zip"), "--sumdb", world.GOSUMDB()}, args...)...)
		url := startCommand(t, cmd)
		addr := strings.Replace(url[strings.Index(url, "//")+2:], "localhost", "127.0.0.1", 1)
		transport := func(ip string) *http.Transport {
			return &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext,
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		}
		from := func(ip string) *http.Client { return &http.Client{Timeout: time.Minute, Transport: transport(ip)} }
		get := func(client *http.Client, path string) (int, string) {
			resp, err := client.Get(url + path)
			if err != nil {
				return 0, err.Error()
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			return resp.StatusCode, string(body)
		}
		early, late := from("127.0.0.2"), from("127.0.0.1")
		if status, body := get(early, "/livez"); status != http.StatusOK {
			t.Fatal(status, body)
		}
		var busy []net.Conn
		hang := func(ip string, n int) {
			for range n {
				conn, err := transport(ip).DialContext(t.Context(), "tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				if args != nil {
					conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				}
				busy = append(busy, conn)
				_, _ = io.WriteString(conn, "GET /example.com/a/@v/v1.0.0.zip HTTP/1.1\r\nHost: x\r\n\r\n") // it may be refused already
			}
		}
		refused := func(ip string) bool {
			hang(ip, 1) // in place of one that was closed before its request was read
			status, body := get(from(ip), "/livez")
			return status == http.StatusServiceUnavailable && strings.Contains(body, "too many open connections")
		}
		hang("127.0.0.1", 46) // one more than a client's part of half of 120
		assaytest.WaitFor(t, func() bool { return refused("127.0.0.1") })
		for _, client := range []*http.Client{early, from("127.0.0.2")} {
			if status, body := get(client, "/example.com/a/@v/v1.0.0.mod"); status != http.StatusOK {
				t.Errorf("a miss of another client: %d %s", status, body)
			}
		}
		hang("127.0.0.3", 20) // now all places are in use
		assaytest.WaitFor(t, func() bool { return refused("127.0.0.3") && refused("127.0.0.4") })
		for _, conn := range busy {
			conn.Close()
		}
		assaytest.WaitFor(t, func() bool { status, _ := get(late, "/livez"); return status == http.StatusOK })
		if _, body := get(late, "/metrics"); !regexp.MustCompile(`assay_http_connections_refused_total [1-9]`).MatchString(body) {
			t.Error("what was refused is not counted")
		}
		kill(t, cmd)
	}
}

// Without a descriptor, wherever one is needed, new objects are refused with a text that says so,
// stored ones are served, and with new descriptors everything is served.
func TestNoDescriptors(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	cmd := p.start()
	fds := filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "fd")
	if _, err := os.ReadDir(fds); err != nil {
		t.Skip(err)
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Skip(err)
	}
	setLimit := func(n uint64) {
		t.Helper()
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: limit.Max}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var stored []string
	for _, m := range []module.Version{p.versions[0], p.versions[len(p.versions)-1]} {
		path := m.Path + "/@v/" + m.Version + ".zip"
		if body, status, err := p.get(path); err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %s %v", path, status, body, err)
		}
		stored = append(stored, path)
	}
	random := rand.New(rand.NewPCG(3, 4))
	short := 0
	var asked []string
	for _, room := range []uint64{0, 1, 2, 4, 7, 11} {
		open, err := os.ReadDir(fds)
		if err != nil {
			t.Fatal(err)
		}
		setLimit(limitFor(t, open, room))
		if room == 0 { // not even for a connection
			client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}
			resp, err := client.Get(p.url + "/livez")
			if err != nil {
				t.Fatalf("a new connection: %v", err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(string(body), "busy: too many open connections\n") || err != nil {
				t.Errorf("a new connection: %d %s %v", resp.StatusCode, body, err)
			}
		}
		for _, path := range stored {
			body, status, err := p.get(path)
			switch {
			case err != nil:
				t.Errorf("room for %d: %s, which is stored: %v", room, path, err)
			case status == http.StatusServiceUnavailable && strings.Contains(string(body), "too many open connections"):
			case status != http.StatusOK:
				t.Errorf("room for %d: %s, which is stored: %d %s", room, path, status, body)
			}
		}
		for i := range 2 {
			m := p.versions[i*24+random.IntN(8)] // a private version and a public one
			for _, kind := range []string{"info", "mod", "zip"} {
				path := m.Path + "/@v/" + m.Version + "." + kind
				body, status, err := p.get(path)
				asked = append(asked, path)
				switch {
				case err == nil && status == http.StatusOK:
				case err == nil && status == http.StatusServiceUnavailable && strings.Contains(string(body), "descriptor"):
					short++
				default:
					t.Errorf("room for %d: %s: %d %s %v", room, path, status, body, err)
				}
			}
		}
	}
	setLimit(limit.Cur)
	if short < 6 {
		t.Errorf("it was short of descriptors %d times", short)
	}
	for _, path := range asked {
		if body, status, err := p.get(path); err != nil || status != http.StatusOK {
			t.Errorf("with descriptors again, %s: %d %s %v", path, status, body, err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// limitFor returns the limit that leaves room for so many descriptors. The limit applies to their
// numbers, and free numbers are used from the lowest.
func limitFor(t *testing.T, open []os.DirEntry, room uint64) (limit uint64) {
	t.Helper()
	taken := map[string]bool{}
	for _, entry := range open {
		taken[entry.Name()] = true
	}
	for free := uint64(0); free < room || taken[fmt.Sprint(limit)]; limit++ {
		if !taken[fmt.Sprint(limit)] {
			free++
		}
	}
	return limit
}
