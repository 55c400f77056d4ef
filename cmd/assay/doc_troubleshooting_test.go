package main_test

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

var (
	answerRow     = regexp.MustCompile("(?m)^\\| (\\d{3}) \\| `(.*?)` \\|")
	printedRow    = regexp.MustCompile(`(?m)^\| ([^|]*) \| `)
	codeSpan      = regexp.MustCompile("`([^`]+)`")
	statusHeading = regexp.MustCompile(`(?m)^## (\d{3}): `)
)

// Each answer of the server in the page about troubles is in errors.md, with the same status.
func TestDocTroubleshootingAnswers(t *testing.T) {
	t.Parallel()
	sections := map[string]string{}
	text := assaytest.ReadDoc(t, docsDir+"errors.md")
	at := statusHeading.FindAllStringSubmatchIndex(text, -1)
	for i, place := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		sections[text[place[2]:place[3]]] = text[place[0]:end]
	}
	rows := answerRow.FindAllStringSubmatch(assaytest.ReadDoc(t, docsDir+"troubleshooting.md"), -1)
	if len(rows) < 15 || len(sections) < 8 {
		t.Fatalf("found %d answers and %d statuses", len(rows), len(sections))
	}
	for _, row := range rows {
		if !strings.Contains(sections[row[1]], "\n### `"+row[2]+"`\n") {
			t.Errorf("errors.md has no answer %s %q", row[1], row[2])
		}
	}
}

// Each text that the page says is printed is in the code of this program, of the go command, or of what
// both are made of.
func TestDocTroubleshootingTexts(t *testing.T) {
	t.Parallel()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("no go command: ", err)
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src")
	var code strings.Builder
	for _, dir := range []string{"../..", filepath.Join(src, "cmd/go/internal"), filepath.Join(src, "net"), filepath.Join(src, "crypto/x509"), filepath.Join(src, "syscall"), filepath.Join(src, "io"), filepath.Join(src, "internal/poll")} {
		readCode(t, dir, &code)
	}
	page := assaytest.ReadDoc(t, docsDir+"troubleshooting.md")
	texts := 0
	for _, section := range strings.Split(page, "\n#") {
		title, rest, _ := strings.Cut(section, "\n")
		for _, table := range []string{"| What is printed |", "| A line of the text has |"} {
			_, rows, ok := strings.Cut(rest, table)
			if !ok {
				continue
			}
			rows, _, _ = strings.Cut(rows, "\n\n")
			for _, row := range printedRow.FindAllStringSubmatch(rows, -1) {
				for _, span := range codeSpan.FindAllStringSubmatch(row[1], -1) {
					texts++
					for _, part := range strings.Split(span[1], "…") {
						if !strings.Contains(code.String(), strings.TrimSpace(part)) {
							t.Errorf("%s: no code prints %q", title, span[1])
						}
					}
				}
			}
		}
	}
	if texts < 8 {
		t.Errorf("found only %d texts", texts)
	}
}

// readCode adds the Go code in a directory that is not a test.
func readCode(t *testing.T, dir string, to *strings.Builder) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "testdata":
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			to.WriteString(assaytest.ReadDoc(t, name))
		}
		return nil
	})
	if err != nil {
		t.Skip("the code is not at hand: ", err)
	}
}
