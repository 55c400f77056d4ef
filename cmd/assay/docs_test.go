package main_test

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	main "github.com/assay-proxy/assay/cmd/assay"
	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/vcs"
)

var updateDocs = flag.Bool("update", false, "rewrite the generated documents")

const docsDir = "../../docs/"

func TestDocConfiguration(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- made by go test ./cmd/assay -run Doc -update; edit the struct Config in cmd/assay/config/config.go -->

The value of a setting comes from the first of these that has one: its flag, its environment variable, the file, the
variable of the go command with the same meaning, the default. ` + "`assay config`" + ` prints the effective settings in the
format of the file, with the origin of each.

The file is [TOML](https://toml.io) and has the keys below. Name it with ` + "`--config`" + ` or ` + "`ASSAY_CONFIG`" + `. An unknown key
is an error. An unknown environment variable that begins with ` + "`ASSAY_`" + ` causes a warning in the log; an empty one counts
as unset. SIGHUP reloads all settings: those marked *reload: yes* take effect, the others need a restart. If a setting
is invalid, all old settings stay in force and the log says why.

Durations are written like ` + "`30s`, `5m`, `168h`" + `. Of GOPROXY in the environment only the part before ` + "`direct`" + ` is used;
the client uses the rest. GOPRIVATE, GONOPROXY and GONOSUMDB are joined.

*Secrets* are in files, so that no list of processes and no description of a container shows them. Most of these files
are settings: ` + "`netrc`, `credentials`, `hook_secret_file`, `htpasswd`, `tokens`, `tls_key`" + `; set for example
` + "`ASSAY_NETRC=/run/secrets/netrc`" + `. The others, ` + secretSettings() + `, can have URLs with credentials, and have
a second variable, which names a file: ` + "`ASSAY_UPSTREAM_FILE=/run/secrets/upstream`" + `. The file has the whole value
in one line, for example ` + "`https://user:password@proxy.corp.example`" + `; of a URL, only ` + "`user:password`" + ` and the
query count as secret. Other users must not have permission to read the file. Both variables of one setting together are
an error. ` + "`assay config`" + ` prints the name of the file and not the value. SIGHUP reads the file again. This is the
way of [Docker and Compose](operations.md#in-a-container), [Kubernetes](kubernetes.md#secrets) and
[systemd](operations.md#as-a-systemd-service) (` + "`LoadCredential=`" + `) to pass secrets.

*In an editor.* ` + "`assay config schema > assay.schema.json`" + ` writes a [JSON Schema](https://json-schema.org) of the
file. An editor with [Taplo](https://taplo.tamasfe.dev) (in VS Code the extension *Even Better TOML*) completes and
checks a file with this first line:

<!-- not run: a line for editors -->

    #:schema ./assay.schema.json
`)
	for _, s := range config.Settings() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.TOML(), fill(s.Help))
		fmt.Fprintf(&b, "| flag | environment | file | default | reload |\n|---|---|---|---|---|\n")
		env := "`" + strings.Join(s.Variables(), "`, `") + "`"
		reload := "no"
		if s.Reload {
			reload = "yes"
		}
		fmt.Fprintf(&b, "| `--%s` | %s | `%s = %s` | `%s` | %s |\n", s.Name, env, s.TOML(), s.TOMLDefault(), s.Default, reload)
	}
	text := strings.ReplaceAll(b.String(), "| `` |", "| none |")
	assaytest.CompareDoc(t, docsDir+"configuration.md", text, *updateDocs)
}

// secretSettings returns the names of the settings with a second variable.
func secretSettings() string {
	var names []string
	for _, s := range config.Settings() {
		if s.Secret {
			names = append(names, "`"+s.TOML()+"`")
		}
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// fill breaks text into lines of at most 116 bytes.
func fill(text string) string {
	var b strings.Builder
	length := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case length == 0:
		case length+1+len(word) > 116:
			b.WriteByte('\n')
			length = 0
		default:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length += len(word)
	}
	return b.String()
}

// The table of the keys of a credential is generated from its tags.
func TestDocCredentials(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- credentials:begin -->\n", "<!-- credentials:end -->"
	text := assaytest.ReadDoc(t, docsDir+"private.md")
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/private.md has no place for the table")
	}
	var b strings.Builder
	b.WriteString("\n| key | meaning |\n|---|---|\n")
	for i := range reflect.TypeFor[vcs.Credential]().NumField() {
		tag := reflect.TypeFor[vcs.Credential]().Field(i).Tag
		fmt.Fprintf(&b, "| `%s` | %s |\n", tag.Get("toml"), tag.Get("doc"))
	}
	assaytest.CompareDoc(t, docsDir+"private.md", before+begin+b.String()+"\n"+end+after, *updateDocs)
}

// The table of client settings has a row for each of the thirteen combinations in the script, with
// the same settings.
func TestDocClients(t *testing.T) {
	t.Parallel()
	script := assaytest.ReadDoc(t, "testdata/script/matrix.txtar")
	clients := assaytest.ReadDoc(t, docsDir+"clients.md")
	proxies := map[string]string{"P": "Assay", "N": "Assay `,` another", "B": "Assay `\\|` another"}
	for i := 1; i <= 13; i++ {
		step := regexp.MustCompile(fmt.Sprintf(`(?m)^# %d\. ([PNB]), (.*)$`, i)).FindStringSubmatch(script)
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \| (.*?[^\\]) \| (.*?) \| (.*?) \|`, i)).FindStringSubmatch(clients)
		switch {
		case step == nil:
			t.Errorf("the script lacks combination %d", i)
		case row == nil:
			t.Errorf("docs/clients.md lacks combination %d", i)
		case row[1] != proxies[step[1]]:
			t.Errorf("combination %d: GOPROXY is %q in docs/clients.md, %q in the script", i, row[1], proxies[step[1]])
		case (row[2] == "off") != strings.HasPrefix(step[2], "GOSUMDB=off"):
			t.Errorf("combination %d: GOSUMDB is %q in docs/clients.md, the script has %q", i, row[2], step[2])
		case strings.Contains(row[3], "private") != (strings.Contains(step[2], "private") || strings.Contains(step[2], "GOPRIVATE")):
			t.Errorf("combination %d: the module is %q in docs/clients.md, the script has %q", i, row[3], step[2])
		}
	}
}

// Flags, variables and commands in documents and packaging exist.
func TestDocFlags(t *testing.T) {
	t.Parallel()
	known := map[string]bool{"--config": true, "--repair": true, "--help": true, "ASSAY_CONFIG": true, "ASSAY_TOKEN": true, "ASSAY_TOKEN_FILE": true}
	for _, s := range config.Settings() {
		known["--"+s.Name] = true
		for _, name := range s.Variables() {
			known[name] = true
		}
	}
	for _, command := range main.NewCommand().Commands() {
		known["assay "+command.Name()] = true
		for _, c := range append(command.Commands(), command) {
			c.LocalFlags().VisitAll(func(f *pflag.Flag) { known["--"+f.Name] = true })
		}
	}
	line := regexp.MustCompile(`assay["', ]+(?:serve|verify|config|health|token|goauth)["', ]*[^\n]*`)
	flags := regexp.MustCompile(`--[a-z][a-z-]*`)
	variables := regexp.MustCompile(`\bASSAY_[A-Z][A-Z_]*`)
	// In code: an indented line, or between backticks; or in the form of a container file.
	commands := regexp.MustCompile("(?m)(?:^    (?:\\$ )?(?:go run \\./cmd/)?|`(?:go run \\./cmd/)?|\"/)assay(?: |\", \")([a-z]+)")
	found := map[string]int{}
	eachDocument(t, func(name, text string) {
		for _, used := range line.FindAllString(text, -1) {
			for _, flag := range flags.FindAllString(used, -1) {
				found["flag"]++
				if !known[flag] {
					t.Errorf("%s: no flag %s, in %q", name, flag, used)
				}
			}
		}
		for _, variable := range variables.FindAllString(text, -1) {
			found["variable"]++
			if !known[variable] {
				t.Errorf("%s: no variable %s", name, variable)
			}
		}
		for _, command := range commands.FindAllStringSubmatch(text, -1) {
			found["command"]++
			if !known["assay "+command[1]] {
				t.Errorf("%s: no command assay %s", name, command[1])
			}
		}
	})
	if found["flag"] < 5 || found["variable"] < 10 || found["command"] < 10 {
		t.Errorf("found only %v in the documents, which cannot be", found)
	}
}

// The programs and packages that README and CONTRIBUTING tell readers to run exist.
func TestDocPrograms(t *testing.T) {
	t.Parallel()
	programs := regexp.MustCompile(`(?:\./cmd/[a-z]+|\.ci/[a-z]+)\b`)
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "docs/tutorial.md", "docs/operations.md"} {
		text := assaytest.ReadDoc(t, "../../"+name)
		found := programs.FindAllString(text, -1)
		if len(found) == 0 {
			t.Errorf("%s runs nothing", name)
		}
		for _, program := range found {
			if _, err := os.Stat(filepath.Join("../..", program)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, line := range []string{"    go run ./cmd/assay serve\n", "    go test ./...\n", "    go env -w GOPROXY=http://localhost:3000\n"} {
		if !strings.Contains(assaytest.ReadDoc(t, "../../README.md"), line) {
			t.Errorf("README.md lacks %q", line)
		}
	}
}

var (
	markdownLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markdownHeading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchors    = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// Links within the tree have a target.
func TestDocLinks(t *testing.T) {
	t.Parallel()
	eachDocument(t, func(name, text string) {
		if !strings.HasSuffix(name, ".md") {
			return
		}
		for _, link := range markdownLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(link[1], "#")
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), filepath.FromSlash(path))
			}
			data, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); err != nil && (statErr != nil || !info.IsDir()) {
				t.Errorf("%s: dead link %s", name, link[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(data)), anchor) {
				t.Errorf("%s: no heading for %s", name, link[1])
			}
		}
	})
}

// anchors returns the anchors of a document's headings.
func anchors(text string) []string {
	var all []string
	for _, heading := range markdownHeading.FindAllStringSubmatch(text, -1) {
		anchor := notInAnchors.ReplaceAllString(strings.ToLower(heading[1]), "")
		all = append(all, strings.ReplaceAll(anchor, " ", "-"))
	}
	return all
}

// eachDocument calls visit for the documents and the packaging.
func eachDocument(t *testing.T, visit func(name, text string)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "..":
			return fs.SkipDir
		case d.IsDir() || !slices.Contains([]string{".md", ".yml", ".service", ""}, filepath.Ext(name)):
			return nil
		}
		visit(name, assaytest.ReadDoc(t, name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
