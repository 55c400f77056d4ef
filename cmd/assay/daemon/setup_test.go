package daemon_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// aliceFile returns an htpasswd file with the user alice, and one that puts her into the group dev.
func aliceFile(t *testing.T) (htpasswd, groups string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	htpasswd, groups = filepath.Join(t.TempDir(), "htpasswd"), filepath.Join(t.TempDir(), "groups")
	for name, text := range map[string]string{htpasswd: "alice:" + string(hash) + "\n", groups: "dev: alice\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return htpasswd, groups
}

// asAlice returns the Authorization header of alice.
func asAlice(password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+password))
}

// A pattern is told to the clients that may read its modules, on the page and in the scripts.
func TestSetupPatterns(t *testing.T) {
	t.Parallel()
	htpasswd, groups := aliceFile(t)
	dir := t.TempDir()
	credentials, token := filepath.Join(dir, "credentials.toml"), filepath.Join(dir, "token")
	for name, text := range map[string]string{credentials: "[[credential]]\npattern = \"closed.example\"\ntoken_file = '" + token + "'\n", token: "secret\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := startFront(t, "--trusted-proxies", "127.0.0.0/8", "--private", "open.example,closed.example", "--htpasswd", htpasswd, "--groups", groups,
		"--access", "secret.example=dev,other.example=ops,all.example=anyone,user.example=*", "--credentials", credentials)
	for _, test := range []struct {
		authorization string
		known         []string
	}{
		{"", []string{"all.example", "open.example"}},
		{asAlice("right"), []string{"all.example", "open.example", "secret.example", "user.example"}},
	} {
		for _, path := range []string{"/", "/-/setup.sh", "/-/setup.fish", "/-/setup.ps1"} {
			header := []string{"X-Forwarded-Proto", "https"}
			if test.authorization != "" {
				header = append(header, "Authorization", test.authorization)
			}
			resp, body, err := ask(t, http.DefaultClient, p.url+path, header...)
			if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Cache-Control") != "no-store" {
				t.Fatal(path, resp, err)
			}
			told := regexp.MustCompile(`\b[a-z]+\.example\b`).FindAllString(body, -1)
			slices.Sort(told)
			if told = slices.Compact(told); !slices.Equal(told, test.known) {
				t.Errorf("%s for %.5q tells %q, want %q", path, test.authorization, told, test.known)
			}
		}
	}
	if resp, body, err := ask(t, http.DefaultClient, p.url+"/-/setup.sh", "X-Forwarded-Proto", "https", "Authorization", asAlice("wrong")); err != nil ||
		resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(body, "# unauthorized") {
		t.Errorf("with a wrong password: %v %q %v", resp, body, err)
	}
}

// A server whose own log covers all modules gives clients its key, over https, and no patterns.
func TestSetupUnified(t *testing.T) {
	t.Parallel()
	p := startFront(t, "--trusted-proxies", "127.0.0.0/8", "--private", "open.example", "--unified", "--log-name", "log.example")
	for path, want := range map[string]string{"/": "    go env -w GOSUMDB=log.example+", "/-/setup.sh": " sumdb='log.example+", "/-/setup.fish": " sumdb 'log.example+", "/-/setup.ps1": "$sumdb = 'log.example+"} {
		if _, body, err := ask(t, http.DefaultClient, p.url+path, "X-Forwarded-Proto", "https"); err != nil || !strings.Contains(body, want) || strings.Contains(body, "open.example") {
			t.Errorf("GET %s: %v\n%s", path, err, body)
		}
	}
	if _, body, err := ask(t, http.DefaultClient, p.url+"/"); err != nil || strings.Contains(body, "log.example") {
		t.Errorf("over http: %v\n%s", err, body)
	}
}

// Scripts are served and offered over https alone, and only with a URL that needs no quotes. What is
// not a script is a comment in each shell.
func TestSetupRefused(t *testing.T) {
	t.Parallel()
	p := startFront(t, "--trusted-proxies", "127.0.0.0/8", "--prefix", "/go")
	for _, test := range []struct {
		status int
		header []string
	}{
		{200, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "proxy.example"}},
		{403, nil},
		{403, []string{"X-Forwarded-Proto", "http"}},
		{400, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "a';touch /tmp/x;'"}},
		{400, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "$(id).example"}},
		{400, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "`id`.example"}},
		{400, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Prefix", "/\u2019;id;\u2019"}},
		{400, []string{"X-Forwarded-Proto", "https, https"}},
	} {
		for _, end := range []string{"sh", "fish", "ps1"} {
			resp, body, err := ask(t, http.DefaultClient, p.url+"/-/setup."+end, test.header...)
			if err != nil || resp.StatusCode != test.status || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s with %q: %v, %v, want %d", end, test.header, resp, err, test.status)
				continue
			}
			if test.status == http.StatusOK {
				if !strings.Contains(body, "'https://proxy.example/go'") || strings.Contains(body, "@VALUES@") || strings.Contains(body, " URL/") {
					t.Errorf("%s: %s", end, body)
				}
				continue
			}
			for line := range strings.Lines(body) {
				if !strings.HasPrefix(line, "# ") {
					t.Errorf("%s with %q: %q is no comment", end, test.header, line)
				}
			}
		}
	}
	_, overHTTP, _ := ask(t, http.DefaultClient, p.url+"/")
	_, overHTTPS, _ := ask(t, http.DefaultClient, p.url+"/", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "proxy.example")
	if strings.Contains(overHTTP, "curl") || !strings.Contains(overHTTPS, "curl -fsSL https://proxy.example/go/-/setup.sh | sh ") {
		t.Errorf("the page over http:\n%s\nover https:\n%s", overHTTP, overHTTPS)
	}
}

// goClient is a go command with settings of its own, in a directory whose name has a space.
type goClient struct {
	t    *testing.T
	home string
	env  []string
}

func newGoClient(t *testing.T, env ...string) *goClient {
	home := filepath.Join(t.TempDir(), "the home")
	// With telemetry the go command leaves a process behind, which may write there when the test has ended.
	telemetry := filepath.Join(home, ".config", "go", "telemetry")
	if err := os.MkdirAll(telemetry, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(telemetry, "mode"), []byte("off\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &goClient{t, home, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_HOME=" + filepath.Join(home, ".config")}, env...)}
}

// run runs a command with a text as its standard input, and returns its output.
func (g *goClient) run(input string, args ...string) (string, error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = g.home, g.env, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// settings returns the lines of go env -w, sorted.
func (g *goClient) settings() string {
	data, _ := os.ReadFile(filepath.Join(g.home, ".config", "go", "env"))
	lines := slices.Sorted(strings.Lines(string(data)))
	return strings.ReplaceAll(strings.Join(lines, ""), "\n", " ")
}

// The scripts configure a real go command, say what they changed, and restore it; also if they run
// twice, or undo what another one did. A go.mod in the current directory does not matter.
func TestSetupScripts(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no shell")
	}
	p := startFront(t, "--trusted-proxies", "127.0.0.0/8", "--private", "corp.example,github.com/acme", "--access", "*.corp.example=anyone,corp.example=anyone,github.com/acme=anyone")
	get := func(end string) string {
		_, text, err := ask(t, http.DefaultClient, p.url+"/-/setup."+end, "X-Forwarded-Proto", "https", "X-Forwarded-Host", "proxy.example", "X-Forwarded-Prefix", "/go")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	sh, fish := get("sh"), get("fish")
	const all = "GONOSUMDB=corp.example,github.com/acme,*.corp.example GOPROXY=https://proxy.example/go "
	found := 0
	for _, shell := range []struct {
		name            string
		script          string
		do, undo, wrong []string
	}{
		{name: "dash", script: sh, do: []string{"dash"}, undo: []string{"dash", "-s", "--", "--undo"}, wrong: []string{"dash", "-s", "x"}},
		{name: "bash", script: sh, do: []string{"bash"}, undo: []string{"bash", "-s", "--", "--undo"}, wrong: []string{"bash", "-s", "x"}},
		{name: "fish", script: fish, do: []string{"fish", "-c", "source"}, undo: []string{"fish", "-c", "source - --undo"}, wrong: []string{"fish", "-c", "source - x"}},
		{name: "fish alone", script: fish, do: []string{"fish"}, undo: []string{"fish", "-c", "source - --undo"}, wrong: []string{"fish", "-c", "source - x"}},
	} {
		if _, err := exec.LookPath(shell.do[0]); err != nil {
			t.Logf("%s is not there", shell.do[0])
			continue
		}
		found++
		t.Run(shell.name, func(t *testing.T) {
			g := newGoClient(t)
			must := func(args []string, want ...string) {
				t.Helper()
				out, err := g.run(shell.script, args...)
				if err != nil {
					t.Fatalf("%q: %v\n%s", args, err, out)
				}
				for _, line := range want {
					if !strings.Contains(out, line+"\n") {
						t.Errorf("%q prints %q, want %q", args, out, line)
					}
				}
			}
			if err := os.WriteFile(filepath.Join(g.home, "go.mod"), []byte("module x\ngo 1.99.0\ntoolchain go1.99.0\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			must(shell.do, "GOPROXY: (unset) -> https://proxy.example/go", "GONOSUMDB: (unset) -> corp.example,github.com/acme,*.corp.example")
			if got := g.settings(); got != all {
				t.Errorf("the settings are %q", got)
			}
			must(shell.do, "GOPROXY is https://proxy.example/go already")
			must(shell.undo, "GOPROXY: unset again", "GONOSUMDB: unset again")
			if got := g.settings(); got != "" {
				t.Errorf("after undo the settings are %q", got)
			}
			if out, err := g.run(shell.script, shell.undo...); err == nil || !strings.Contains(out, "nothing to undo") {
				t.Errorf("a second undo: %v %q", err, out)
			}
			if out, err := g.run(shell.script, shell.wrong...); err == nil || !strings.Contains(out, "unknown argument x") || g.settings() != "" {
				t.Errorf("a wrong argument: %v %q", err, out)
			}

			// Values from before are kept, and what was changed meanwhile stays.
			if out, err := g.run("", "go", "env", "-C", "/", "-w", "GOPROXY=https://old.example|direct", "GONOSUMDB=mine.example,corp.example"); err != nil {
				t.Fatal(out, err)
			}
			before := g.settings()
			must(shell.do, "GOPROXY: https://old.example|direct -> https://proxy.example/go",
				"GONOSUMDB: mine.example,corp.example -> mine.example,corp.example,github.com/acme,*.corp.example")
			must(shell.do)
			must(shell.undo, "GOPROXY: https://old.example|direct again")
			if got := g.settings(); got != before {
				t.Errorf("after undo the settings are %q, want %q", got, before)
			}
			must(shell.do)
			if out, err := g.run("", "go", "env", "-C", "/", "-w", "GOPROXY=https://newer.example"); err != nil {
				t.Fatal(out, err)
			}
			must(shell.undo, "GOPROXY was changed since, and stays: https://newer.example")
			if got, want := g.settings(), "GONOSUMDB=mine.example,corp.example GOPROXY=https://newer.example "; got != want {
				t.Errorf("after undo the settings are %q, want %q", got, want)
			}

			// The environment takes precedence, and GOENV=off forbids changes.
			g = newGoClient(t, "GOPROXY=https://env.example", "GOPRIVATE=own.example")
			must(shell.do, "note: the variable GOPROXY of the environment takes precedence; remove it there",
				"GONOSUMDB: (unset) -> own.example,corp.example,github.com/acme,*.corp.example",
				"note: the go command does not ask the proxy for modules that match GONOPROXY or GOPRIVATE: own.example")
			g = newGoClient(t, "GOENV=off")
			if out, err := g.run(shell.script, shell.do...); err == nil || !strings.Contains(out, "GOENV is off") {
				t.Errorf("with GOENV=off: %v %q", err, out)
			}
			g = newGoClient(t)
			g.env[0] = "PATH=" + t.TempDir()
			name, _ := exec.LookPath(shell.do[0])
			if out, err := g.run(shell.script, append([]string{name}, shell.do[1:]...)...); err == nil || !strings.Contains(out, "there is no go command in PATH") {
				t.Errorf("without go: %v %q", err, out)
			}

			// A part of the script changes nothing.
			g = newGoClient(t)
			for _, part := range []int{len(shell.script) / 3, len(shell.script) / 2, len(shell.script) - 200} {
				_, _ = g.run(shell.script[:part], shell.do...) // it may fail
				if got := g.settings(); got != "" {
					t.Errorf("the first %d bytes make the settings %q", part, got)
				}
			}
		})
	}
	if found == 0 {
		t.Error("there is no shell")
	}
	// One script undoes what the other one did.
	if _, err := exec.LookPath("fish"); err == nil {
		g := newGoClient(t)
		if out, err := g.run(sh, "sh"); err != nil {
			t.Fatal(out, err)
		}
		if out, err := g.run(fish, "fish", "-c", "source - --undo"); err != nil || g.settings() != "" {
			t.Errorf("%v %q leaves %q", err, out, g.settings())
		}
	}
}
