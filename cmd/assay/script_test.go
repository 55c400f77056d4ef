package main_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	main "github.com/assay-proxy/assay/cmd/assay"
	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/internal/parallel"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"assay": func() { os.Exit(main.Run()) },
	})
}

// tests are the tests of this package, when this binary is not run as the program.
type tests struct{ *testing.M }

// Run runs more tests in parallel than there are processors: most of them wait, for a child, a
// clock or an upstream that hangs. A flag on the command line takes precedence. Run also sets the credentials of the
// tests' buckets, and hides the system's certificate authorities, which no test needs: every server and every git
// process that connects to a host would read hundreds of files.
func (m tests) Run() int {
	if err := parallel.Tests("6"); err != nil {
		panic(err)
	}
	for _, setting := range append(noAuthorities(), bucketEnv...) {
		name, value, _ := strings.Cut(setting, "=")
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	return m.M.Run()
}

// noAuthorities returns the environment of a process without the system's certificate authorities.
func noAuthorities() []string {
	none := filepath.Join(os.TempDir(), "no-such-directory")
	return []string{"SSL_CERT_FILE=" + none, "SSL_CERT_DIR=" + none}
}

// TestScripts runs the real program and the real go command against a world of the script's own.
// testdata/script/README.md describes the commands.
func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to be the client")
	}
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":      serveCmd,
			"shutdown":   shutdownCmd,
			"crash":      crashCmd,
			"hangup":     hangupCmd,
			"get":        getCmd,
			"asked":      askedCmd,
			"guarded":    guardedCmd,
			"issuer":     issuerCmd,
			"issue":      issueCmd,
			"job":        jobCmd,
			"netrc":      netrcCmd,
			"tokens":     tokensCmd,
			"forget":     forgetCmd,
			"fresh":      freshCmd,
			"clean":      cleanCmd,
			"setworld":   setWorldCmd,
			"big":        bigCmd,
			"damage":     damageCmd,
			"eventually": eventuallyCmd,
			"code":       codeCmd,
			"ownkey":     ownKeyCmd,
			"certify":    certifyCmd,
			"hook":       hookCmd,
			"revoke":     revokeCmd,
			"truncate":   truncateCmd,
			"snapshot":   snapshotCmd,
			"unchanged":  unchangedCmd,
		},
	})
}

type worldKey struct{}
type serverKey struct{}
type testKey struct{}

// setupScript gives a script its world and a go command without its user's settings.
func setupScript(env *testscript.Env) error {
	world := proxytest.New(env.T().(testing.TB))
	archives, err := filepath.Glob("testdata/modules/*.txtar")
	if err != nil {
		return err
	}
	for _, name := range archives {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		world.Add(string(data))
	}
	env.Values[worldKey{}] = world
	env.Values[serverKey{}] = new(serverProcess)
	env.Values[codeKey{}] = new(codeHosts)
	env.Values[testKey{}] = env.T().(testing.TB)
	env.Values[issuerKey{}] = new(jobIssuer)
	env.Values[snapshotKey{}] = new(string)
	goCache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return fmt.Errorf("go env GOCACHE: %w", err)
	}
	free, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(free.Addr().String())
	if err = errors.Join(err, free.Close()); err != nil {
		return err
	}
	objects := s3test.Start(env.T().(testing.TB))
	for _, setting := range bucketEnv {
		name, value, _ := strings.Cut(setting, "=")
		env.Setenv(name, value)
	}
	for name, value := range map[string]string{
		"BUCKET":      bucketURL(objects.URL),
		"OTHERBUCKET": strings.Replace(bucketURL(objects.URL), "/store?", "/other?", 1), // another store in it
		"FREEPORT":    port,                                                             // an unused port
		"UPSTREAM":    strings.TrimSuffix(world.URL("ok"), "/ok"),
		"KEY":         world.GOSUMDB(),
		"GOSUMDB":     world.GOSUMDB(),
		"GOPATH":      filepath.Join(env.WorkDir, "gopath"),
		"GOMODCACHE":  filepath.Join(env.WorkDir, "gopath", "pkg", "mod"),
		"GOCACHE":     strings.TrimSpace(string(goCache)),
		"GOENV":       "off",
		"GOFLAGS":     "-modcacherw -mod=mod",
		"GOTOOLCHAIN": "local",
		"GOPROXY":     "off",
		"GOVCS":       "*:off",
		"GORACE":      strings.TrimPrefix(quickExit, "GORACE="),
		"HTTP_PROXY":  "", "HTTPS_PROXY": "", "http_proxy": "", "https_proxy": "",
	} {
		env.Setenv(name, value)
	}
	return nil
}

// serverProcess is the one assay serve that a script has at a time.
type serverProcess struct {
	cmd    *exec.Cmd
	stderr *assaytest.Output
	done   chan error
}

func (p *serverProcess) running() bool { return p.cmd != nil }

// serveCmd starts assay serve with the arguments, a port of its own and the directory $WORK/data,
// and sets GOPROXY and ASSAY to its URL. With ! it must refuse to start.
func serveCmd(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value(serverKey{}).(*serverProcess)
	if p.running() {
		ts.Fatalf("a server is running")
	}
	program, err := lookPath(ts, "assay")
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	all := append([]string{"serve", "--listen", "127.0.0.1:0", "--data", dataDir(ts), "--sumdb", ts.Getenv("KEY")}, args...)
	cmd := exec.CommandContext(ctx, program, all...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environment(ts)
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	p.stderr = new(assaytest.Output)
	cmd.Stderr = p.stderr
	ts.Check(cmd.Start())
	lines := bufio.NewReader(stdout)
	line, lineErr := lines.ReadString('\n')
	done := make(chan error, 1)
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		done <- cmd.Wait()
		cancel()
	}()
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "Assay serves ")
	if lineErr != nil || !ok {
		err := <-done
		fmt.Fprint(ts.Stderr(), p.stderr.String())
		if neg && err != nil {
			return
		}
		ts.Fatalf("assay serve ended: %v\n%s%s", err, line, p.stderr.String())
	}
	p.cmd, p.done = cmd, done
	ts.Defer(func() {
		if p.cmd == cmd {
			_ = cmd.Process.Kill()
			<-done
			ts.Logf("[server log]\n%s", p.stderr.String())
		}
	})
	if neg {
		ts.Fatalf("assay serve started")
	}
	ts.Setenv("ASSAY", url)
	ts.Setenv("GOPROXY", url)
}

func dataDir(ts *testscript.TestScript) string { return filepath.Join(ts.Getenv("WORK"), "data") }

func lookPath(ts *testscript.TestScript, name string) (string, error) {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		file := filepath.Join(dir, name)
		if runtime.GOOS == "windows" {
			file += ".exe"
		}
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
	}
	return "", fs.ErrNotExist
}

// environment returns the environment of a server that a script starts: not the client's settings,
// but those that the script sets with env SERVER_NAME=value.
func environment(ts *testscript.TestScript) []string {
	env := []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "TMPDIR=" + ts.Getenv("TMPDIR"), quickExit, "SYSTEMROOT=" + ts.Getenv("SYSTEMROOT")}
	env = append(append(env, noAuthorities()...), bucketEnv...)
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "ASSAY_UPSTREAM", "ASSAY_UPSTREAM_FILE", "ASSAY_CONFIG", "ASSAY_LOG_FORMAT",
		"HTTPS_PROXY", "GIT_TOKEN", "ASSAY_PRIVAT"} {
		if value := ts.Getenv("SERVER_" + name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// shutdownCmd stops the server like a service manager; its log becomes the standard error for later
// commands.
func shutdownCmd(ts *testscript.TestScript, neg bool, args []string) { end(ts, syscall.SIGTERM) }

// crashCmd kills the server.
func crashCmd(ts *testscript.TestScript, neg bool, args []string) { end(ts, syscall.SIGKILL) }

func end(ts *testscript.TestScript, sig os.Signal) {
	p := ts.Value(serverKey{}).(*serverProcess)
	if !p.running() {
		ts.Fatalf("no server is running")
	}
	ts.Check(p.cmd.Process.Signal(sig))
	select {
	case err := <-p.done:
		p.cmd = nil
		var exit *exec.ExitError
		if err != nil && !(errors.As(err, &exit) && sig == syscall.SIGKILL) {
			ts.Fatalf("assay serve ended with %v\n%s", err, p.stderr.String())
		}
	case <-time.After(40 * time.Second):
		ts.Fatalf("assay serve did not end")
	}
	fmt.Fprint(ts.Stderr(), p.stderr.String())
}

// hangupCmd makes the server read its settings again, and waits until it has done so.
func hangupCmd(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value(serverKey{}).(*serverProcess)
	reloads := func() int { // not the word alone, which a directory can have in its name
		text := p.stderr.String()
		return strings.Count(text, "settings reloaded") + strings.Count(text, "reload refused")
	}
	before := reloads()
	ts.Check(p.cmd.Process.Signal(syscall.SIGHUP))
	for range 3000 {
		if reloads() > before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("no reload in the log:\n%s", p.stderr.String())
}

// getCmd requests a path of the server, which must respond with the status; the body becomes the
// standard output. Further arguments are headers, Name:value.
func getCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: get status path [Name:value...]")
	}
	status, body, err := get(ts, args[1], args[2:])
	ts.Check(err)
	_, _ = ts.Stdout().Write(body)
	if strconv.Itoa(status) != args[0] {
		ts.Fatalf("GET %s: status %d, want %s\n%s", args[1], status, args[0], body)
	}
}

func get(ts *testscript.TestScript, path string, header []string) (int, []byte, error) {
	r, err := http.NewRequest(http.MethodGet, ts.Getenv("ASSAY")+"/"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ":")
		r.Header.Set(name, value)
	}
	client := http.Client{Timeout: time.Minute}
	if name := ts.Getenv("SSL_CERT_FILE"); name != "" {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(ts.ReadFile(name)))
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		defer transport.CloseIdleConnections()
		client.Transport = transport
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// eventuallyCmd is get for a result that takes a moment: it retries for a minute, until the body
// has the text as well.
func eventuallyCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: eventually status path text")
	}
	var status int
	var body []byte
	var err error
	for range 600 {
		if status, body, err = get(ts, args[1], nil); err == nil && strconv.Itoa(status) == args[0] && strings.Contains(string(body), args[2]) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("GET %s: %d %q %v, want %s and %q", args[1], status, body, err, args[0], args[2])
}

// askedCmd checks how many requests for a path the world has received since the last forget; a path
// may end in *.
func askedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: asked path n")
	}
	world := ts.Value(worldKey{}).(*proxytest.World)
	if n := world.Count(args[0]); strconv.Itoa(n) != args[1] {
		ts.Fatalf("upstream was asked %d times for %s, want %s; all it was asked for:\n%s", n, args[0], args[1], strings.Join(world.Paths(), "\n"))
	}
}

func forgetCmd(ts *testscript.TestScript, neg bool, args []string) {
	ts.Value(worldKey{}).(*proxytest.World).ResetCounts()
}

// freshCmd removes everything that the go command has stored: modules, and the tree head, which go
// clean -modcache would keep.
func freshCmd(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.RemoveAll(ts.Getenv("GOPATH")))
}

// cleanCmd is fresh, and empties the store for the next server.
func cleanCmd(ts *testscript.TestScript, neg bool, args []string) {
	freshCmd(ts, neg, args)
	ts.Check(os.RemoveAll(dataDir(ts)))
}

// setWorldCmd makes the content of a file the world's response at a path.
func setWorldCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg && len(args) == 1 {
		ts.Value(worldKey{}).(*proxytest.World).Set(args[0], nil)
		return
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: setworld path file, or: ! setworld path")
	}
	ts.Value(worldKey{}).(*proxytest.World).Set(args[0], []byte(ts.ReadFile(args[1])))
}

// bigCmd adds a number of modules example.com/big0, big1, ... to the world, whose zips have about so many bytes.
func bigCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: big n bytes")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Value(worldKey{}).(*proxytest.World).AddBig(n, size)
}

type snapshotKey struct{}

// snapshotCmd remembers all files in a directory, and unchangedCmd compares them.
func snapshotCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: snapshot directory")
	}
	*ts.Value(snapshotKey{}).(*string) = describeFiles(ts, args[0])
}

func unchangedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: unchanged directory")
	}
	before, now := *ts.Value(snapshotKey{}).(*string), describeFiles(ts, args[0])
	if now != before {
		ts.Fatalf("before:\n%s\nnow:\n%s", before, now)
	}
}

// describeFiles returns the names and hashes of all files in a directory.
func describeFiles(ts *testscript.TestScript, dir string) string {
	var b strings.Builder
	ts.Check(filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(name); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(&b, "%s %v %x\n", name, info.Mode(), sha256.Sum256(content))
		return err
	}))
	return b.String()
}

// truncateCmd cuts a number of bytes off the end of a file.
func truncateCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: truncate file bytes")
	}
	bytes, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), info.Size()-bytes))
}

// damageCmd changes a byte in every occurrence of a text in the store of the server, which must not
// be running.
func damageCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: damage text")
	}
	names, err := filepath.Glob(filepath.Join(dataDir(ts), "*.db"))
	ts.Check(err)
	found := 0
	for _, name := range names {
		data, err := os.ReadFile(name)
		ts.Check(err)
		changed := strings.ReplaceAll(string(data), args[0], "X"+args[0][1:])
		if changed != string(data) {
			found++
			ts.Check(os.WriteFile(name, []byte(changed), 0o600))
		}
	}
	if found == 0 {
		ts.Fatalf("%q is not in the store", args[0])
	}
}
