package main_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// TestDocCommands runs the commands of the pages, each page as one script in a home of its own. Each
// block of a page is run, written into a file, or marked with the reason why not: doc_page_test.go has
// the comments that pages use.
//
// The program is the real one, and so is the go command. What the pages do at the addresses and
// directories of an installation happens at ports and in a directory of the test; their output is
// compared as if it had not. The public mirror, the code hosts and the names below corp.example are
// servers of the test, and no other name can be reached.
func TestDocCommands(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"bash", "curl", "git", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("there is no ", program)
		}
	}
	names, err := filepath.Glob(docsDir + "*.md")
	if err != nil || len(names) < 15 {
		t.Fatal(names, err)
	}
	tests := testNames(t)
	for _, name := range append(names, "../../README.md") {
		clients, metrics := reservePort(t), reservePort(t)
		t.Run(strings.TrimSuffix(filepath.Base(name), ".md"), func(t *testing.T) {
			t.Parallel()
			ports := map[string]string{"3000": release(t, clients), "9464": release(t, metrics)}
			steps, wrong := parsePage(assaytest.ReadDoc(t, name))
			for _, w := range wrong {
				t.Errorf("%s, %s", name, w)
			}
			runs := false
			for _, s := range steps {
				runs = runs || s.NotRun == "" && s.File == "" && !s.Hidden
				for _, missing := range missingTests(s.NotRun, tests) {
					t.Errorf("%s, line %d: there is no %s", name, s.Line, missing)
				}
			}
			if runs && !t.Failed() {
				newDocRun(t, steps, ports).run(t, name)
			}
		})
	}
}

// testNames returns the names of all tests.
func testNames(t *testing.T) map[string]bool {
	names := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		for _, found := range declared.FindAllStringSubmatch(assaytest.ReadDoc(t, name), -1) {
			names[found[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var testName = regexp.MustCompile(`\bTest\w+|\bdeploy/test/\S+\.sh`)

// missingTests returns the tests and scripts that a reason names and that do not exist.
func missingTests(reason string, tests map[string]bool) (missing []string) {
	for _, name := range testName.FindAllString(reason, -1) {
		_, err := os.Stat("../../" + name)
		if !tests[name] && err != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// docRun is the run of a page.
type docRun struct {
	steps  []docStep
	root   string            // stands for the root of the file system
	ports  map[string]string // of the page: those of the test
	script strings.Builder
	env    []string
	shown  []shownOutput
}

// shownOutput is the output that a page shows of a command.
type shownOutput struct {
	command docCommand
	step    docStep
}

func newDocRun(t *testing.T, steps []docStep, ports map[string]string) *docRun {
	// A short name, because sockets are in it.
	root, err := os.MkdirTemp("", "doc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	d := &docRun{steps: steps, root: root, ports: ports}
	for _, dir := range []string{"etc/assay", "var/lib", "backup", "home/alice/.config/go/telemetry", "run", "bin", "tmp", "work"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	world := proxytest.NewWith(t, "sum.golang.org")
	world.Add(assaytest.ReadDoc(t, "testdata/docs/modules.txtar"))
	code := vcstest.New(t)
	code.Module("lib", "v1.0.0\n-- go.mod --\nmodule corp.example/lib\n-- lib.go --\npackage lib\n")
	d.write(t, "home/alice/.config/go/env", "GOSUMDB="+world.GOSUMDB()+"\nGOFLAGS=-modcacherw\n")
	d.write(t, "home/alice/.config/go/telemetry/mode", "off\n") // with it, the go command leaves a process that writes there later
	d.write(t, "home/alice/.curlrc", "no-progress-meter\n")     // as in a terminal

	// A certificate for this server's names; clients trust it, and the authority of the code hosts.
	cert, key := filepath.Join(root, "etc/assay/cert.pem"), filepath.Join(root, "etc/assay/key.pem")
	if err := assaytest.WriteCertificate(cert, key, "*.corp.example"); err != nil {
		t.Fatal(err)
	}
	d.write(t, "roots.pem", assaytest.ReadDoc(t, cert)+assaytest.ReadDoc(t, code.CAFile()))

	realGo, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	d.write(t, "bin/go", "#!/bin/sh\n# The program of this test stands for the one that go run would build.\n"+
		"if [ \"$1 $2\" = 'run ./cmd/assay' ]; then shift 2; exec assay \"$@\"; fi\nexec "+realGo+" \"$@\"\n")
	goCache, err := exec.Command(realGo, "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	roads := d.roads(t, code.Addr())
	d.env = []string{
		"PATH=" + filepath.Join(root, "bin") + string(filepath.ListSeparator) + os.Getenv("PATH"), "HOME=" + filepath.Join(root, "home/alice"), "LANG=C.UTF-8",
		"TMPDIR=" + filepath.Join(root, "tmp"),
		"GOCACHE=" + strings.TrimSpace(string(goCache)), "GOTOOLCHAIN=local", quickExit, "SSL_CERT_FILE=" + filepath.Join(root, "roots.pem"), "SSL_CERT_DIR=" + root, "CURL_CA_BUNDLE=" + filepath.Join(root, "roots.pem"),
		"HTTP_PROXY=" + roads, "HTTPS_PROXY=" + roads, "http_proxy=" + roads, "no_proxy=localhost,127.0.0.1",
		"ASSAY_UPSTREAM=" + world.URL("ok"), "ASSAY_SUMDB=" + world.GOSUMDB(), "ASSAY_LISTEN=localhost:" + d.ports["3000"], "ASSAY_CA_FILE=" + filepath.Join(root, "roots.pem"),
	}
	return d
}

func (d *docRun) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.root, name), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// reservePort returns a listener at a port that the system gives to no connection, so it stays free after
// the listener is closed.
func reservePort(t *testing.T) net.Listener {
	t.Helper()
	const first, number = 10000, 20000 // Linux takes ports of connections from 32768 on
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprintf("localhost:%d", first+rand.IntN(number))); err == nil {
			return l
		}
	}
	t.Fatal("no port is free")
	return nil
}

// release closes a listener and returns its port.
func release(t *testing.T, l net.Listener) string {
	t.Helper()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	return port
}

// roads starts the HTTP proxy through which the commands of a page reach all names: those of code hosts
// are servers of the test, other names below corp.example are the page's own server.
func (d *docRun) roads(t *testing.T, code string) string {
	own := "localhost:" + d.ports["3000"]
	toOwn := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: own})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		target := own
		switch {
		case host == vcstest.PageHost || host == vcstest.GitHost:
			target = code
		case !strings.HasSuffix(host, "."+vcstest.PageHost):
			http.Error(rw, "no such host: "+host, http.StatusBadGateway)
			return
		}
		if r.Method != http.MethodConnect {
			toOwn.ServeHTTP(rw, r)
			return
		}
		if err := vcstest.Tunnel(rw, target); err != nil {
			http.Error(rw, err.Error(), http.StatusBadGateway)
		}
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// prelude has the functions of a script. The one server that runs at a time ends when the next one
// starts, at the command stop, and at the end. Servers start in the same directory, as in a terminal of
// their own.
const prelude = `set -o pipefail
server= want=ok line=0
mark() { # the line of the next command, and whether it is to fail
	local status=$?
	if { [ $want = ok ] && [ $status -ne 0 ]; } || { [ $want = fails ] && [ $status -eq 0 ]; }; then
		printf '\n@@ %s\nstatus %s\n' "$line" "$status"
		exit 1
	fi
	line=$1 want=$2
	printf '\n@@ %s\n' "$line"
}
stop() {
	[ -n "$server" ] || return 0
	kill "$server"
	wait "$server"
	local status=$?
	server=
	return $status
}
ready() {
	until grep -q '^Assay serves' "$ROOT/server.out"; do
		kill -0 "$server" 2>/dev/null || { cat "$ROOT/server.err"; return 1; }
		sleep 0.05
	done
	cat "$ROOT/server.out"
}
trap stop EXIT
`

var servesPage = regexp.MustCompile(`^(go run \./cmd/)?assay serve\b`)

// compose returns the script.
func (d *docRun) compose() string {
	d.script.WriteString(prelude)
	for _, s := range d.steps {
		switch {
		case s.NotRun != "":
		case s.File != "":
			name := d.here(s.File)
			fmt.Fprintf(&d.script, "mark %d ok; mkdir -p \"$(dirname %s)\" && cat > %[2]s <<'END OF FILE'\n%s\nEND OF FILE\n", s.Line, name, d.here(strings.Join(s.Code, "\n")))
		default:
			d.composeCommands(s)
		}
	}
	d.script.WriteString("mark 0 ok; stop\nmark 0 ok\n")
	return d.script.String()
}

func (d *docRun) composeCommands(s docStep) {
	commands := s.commands()
	values := strings.NewReplacer(s.Values...)
	for i, c := range commands {
		want := "ok"
		if s.Fails && i == len(commands)-1 {
			want = "fails"
		}
		text := d.here(values.Replace(c.Text))
		if servesPage.MatchString(text) {
			text = strings.TrimSuffix(text, " …")
			fmt.Fprintf(&d.script, "mark %d ok; stop\nmark %[1]d %s; before=$PWD; cd \"$ROOT/work\"\n: > \"$ROOT/server.out\"\n%s > \"$ROOT/server.out\" 2> \"$ROOT/server.err\" & server=$!\ncd \"$before\"; ready\n", c.Line, want, text)
		} else {
			fmt.Fprintf(&d.script, "mark %d %s; %s\n", c.Line, want, text)
		}
		if len(c.Shown) > 0 {
			d.shown = append(d.shown, shownOutput{c, s})
		}
	}
}

// here replaces what belongs to an installation by what belongs to the test, and there does the
// opposite.
func (d *docRun) here(text string) string {
	return strings.NewReplacer(":3000", ":"+d.ports["3000"], ":9464", ":"+d.ports["9464"], "/etc/assay", d.root+"/etc/assay", "/var/lib/assay", d.root+"/var/lib/assay",
		"/backup", d.root+"/backup", "/run/assay", d.root+"/run/assay", "/home/alice", d.root+"/home/alice").Replace(text)
}

func (d *docRun) there(text string) string {
	return strings.NewReplacer(":"+d.ports["3000"], ":3000", ":"+d.ports["9464"], ":9464", d.root, "").Replace(text)
}

func (d *docRun) run(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	d.write(t, "script", d.compose())
	cmd := exec.CommandContext(ctx, "bash", filepath.Join(d.root, "script"))
	cmd.Dir = filepath.Join(d.root, "work")
	cmd.Env = append(d.env, "ROOT="+d.root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	output := d.outputs(string(out))
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(d.root, "server.err"))
		t.Fatalf("%s: %v; the line is after the last @@, and doc_page_test.go says how to mark what cannot be run\n%s\n[log of the server]\n%s", name, err, d.there(string(out)), log)
	}
	for _, shown := range d.shown {
		if diff := compareShown(shown, output[fmt.Sprint(shown.command.Line)]); diff != "" {
			t.Errorf("%s, line %d: %s\n%s", name, shown.command.Line, shown.command.Text, diff)
		}
	}
}

var docMarker = regexp.MustCompile(`(?m)^@@ (\d+)\n`)

// outputs returns the output of each command by its line.
func (d *docRun) outputs(out string) map[string]string {
	all := map[string]string{}
	places := docMarker.FindAllStringSubmatchIndex(out, -1)
	for i, at := range places {
		end := len(out)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		all[out[at[2]:at[3]]] += d.there(out[at[1]:end])
	}
	return all
}

var (
	docVaries  = regexp.MustCompile(`(request id: )\S+|\d{4}-\d\d-\d\dT[\d:]+Z`)
	docNumbers = regexp.MustCompile(`\d[\d.]*`)
	docSpaces  = regexp.MustCompile(`\s+`)
)

// compareShown compares the output that a page shows with that of the command, whose lines may come in
// another order: the go command does many things at the same time.
func compareShown(shown shownOutput, got string) string {
	wanted, more := map[string]int{}, false
	for _, line := range shown.command.Shown {
		switch line {
		case "":
		case "…":
			more = true
		default:
			wanted[shown.pattern(line)]++
		}
	}
	var extra []string
	patterns := slices.SortedFunc(maps.Keys(wanted), func(a, b string) int { return len(b) - len(a) })
lines:
	for line := range strings.Lines(got) {
		line = strings.TrimSpace(docSpaces.ReplaceAllString(line, " "))
		for _, pattern := range patterns {
			if wanted[pattern] > 0 && regexp.MustCompile(pattern).MatchString(line) {
				if wanted[pattern]--; wanted[pattern] == 0 {
					delete(wanted, pattern)
				}
				continue lines
			}
		}
		if line != "" && !more {
			extra = append(extra, line)
		}
	}
	if len(wanted) == 0 && len(extra) == 0 {
		return ""
	}
	return fmt.Sprintf("the page shows, and the command does not print: %q\nthe command prints, and the page does not show: %q", slices.Sorted(maps.Keys(wanted)), extra)
}

// pattern returns what a line of shown output stands for.
func (s shownOutput) pattern(line string) string {
	const anything = "\x00"
	line = strings.TrimSpace(docSpaces.ReplaceAllString(line, " "))
	line = docVaries.ReplaceAllString(line, "${1}"+anything)
	for i := 0; i < len(s.step.Values); i += 2 {
		line = strings.ReplaceAll(line, s.step.Values[i], anything)
	}
	if s.step.Numbers {
		line = docNumbers.ReplaceAllString(line, anything)
	}
	line = strings.ReplaceAll(line, "…", anything)
	return "^" + strings.ReplaceAll(regexp.QuoteMeta(line), anything, ".*") + "$"
}
