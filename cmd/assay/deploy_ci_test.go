package main_test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

var (
	ciAuth    = regexp.MustCompile(`sh -c \\?"[^"\\]*\\?"`)
	ciInput   = regexp.MustCompile(`\$(?:\{\{|\[\[) inputs\.(url|audience) (?:\}\}|\]\])`)
	ciProxy   = regexp.MustCompile(`GOPROXY"?(?:: "?| = '|=)([^\s'"]+)`)
	docQuoted = regexp.MustCompile(`(?m)^<!-- (deploy/ci/\S+) -->\n\n((?:    .*\n)+)`)
)

// authLines returns the values of GOAUTH in a text: on one line, with the values of the examples.
func authLines(text string) []string {
	var lines []string
	for _, line := range ciAuth.FindAllString(text, -1) {
		line = strings.Join(strings.Fields(strings.ReplaceAll(line, `\"`, `"`)), " ")
		line = ciInput.ReplaceAllStringFunc(line, func(input string) string {
			if strings.Contains(input, "audience") {
				return "assay"
			}
			return "https://proxy.corp.example"
		})
		lines = append(lines, line)
	}
	return lines
}

// The page of CI systems names each template and says what is in it. A template sends the token to
// the proxy that it uses, keeps GOPRIVATE from bypassing it, and does not go around it.
func TestDeployCI(t *testing.T) {
	t.Parallel()
	page := assaytest.ReadDoc(t, docsDir+"ci.md")
	templates := map[string]bool{}
	inTemplates := map[string]bool{}
	err := filepath.WalkDir(ciDir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "check" {
				return fs.SkipDir
			}
			return nil
		}
		text := assaytest.ReadDoc(t, name)
		relative := filepath.ToSlash(strings.TrimPrefix(name, filepath.FromSlash(ciDir)))
		templates[relative] = true
		if !strings.Contains(page, "deploy/ci/"+relative) {
			t.Errorf("docs/ci.md does not name %s", relative)
		}
		if relative == "github/workflow.yml" {
			return nil
		}
		lines := authLines(text)
		if len(lines) != 1 || strings.Contains(lines[0], ";") {
			t.Errorf("%s has the lines %q for GOAUTH", relative, lines)
			return nil
		}
		inTemplates[lines[0]] = true
		proxy := ciProxy.FindStringSubmatch(ciInput.ReplaceAllString(text, "https://proxy.corp.example"))
		if proxy == nil || !strings.Contains(lines[0], "echo "+proxy[1]+" &&") {
			t.Errorf("%s: the proxy is %q, and the token is for %s", relative, proxy, lines[0])
		}
		if !regexp.MustCompile(`GONOPROXY\W+none\b`).MatchString(text) || regexp.MustCompile(`,direct|\|direct|GOSUMDB\W+off`).MatchString(text) {
			t.Errorf("%s lets the go command bypass the proxy", relative)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	templates[ciPage] = true
	templates["github/action.yml"] = false // a part of the workflow
	for name, runs := range templates {
		if _, ok := ciSystems[name]; ok != runs {
			t.Errorf("the script ci.txtar cannot run %s", name)
		}
	}
	lines := authLines(page)
	if len(lines) != 2 {
		t.Errorf("docs/ci.md has the lines %q for GOAUTH", lines)
	}
	for _, line := range lines {
		if !inTemplates[line] {
			t.Errorf("docs/ci.md has a line for GOAUTH that no template has: %s", line)
		}
	}
	quoted := docQuoted.FindAllStringSubmatch(page, -1)
	if len(quoted) == 0 {
		t.Error("docs/ci.md quotes no template")
	}
	for _, block := range quoted {
		template := assaytest.ReadDoc(t, "../../"+block[1])
		for line := range strings.Lines(block[2]) {
			if !strings.Contains(template, strings.TrimSpace(line)+"\n") {
				t.Errorf("docs/ci.md quotes a line that %s does not have: %s", block[1], line)
			}
		}
	}
}
