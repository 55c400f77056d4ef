package assay_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// vague are words that hide who acts. Texts name the role instead: the client,
// the administrator, the upstream, the database.
var vague = regexp.MustCompile(`\b(?i:somebody|nobody|anybody|everybody|whoever|who (waits?|asks?|runs? this|comes|reads it)|as it were|a person|in vain|for want of|those who run)\b|\banew\b`)

// vagueCode has, for each package whose texts are not converted yet, how many
// vague words its error texts, log messages, help texts and exported comments
// have. Numbers only go down.
var vagueCode = map[string]int{}

// vaguePages has the same for Markdown pages: vague words, and lines of prose
// wider than maxWidth.
var vaguePages = map[string]struct{ words, wide int }{}

// maxWidth is the width of prose in Markdown, in characters.
const maxWidth = 120

func TestEnglishInCode(t *testing.T) {
	found := map[string][]string{}
	goFiles(t, func(folder, name string) {
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		look := func(at token.Pos, text string) {
			for _, word := range vague.FindAllString(text, -1) {
				found[folder] = append(found[folder], files.Position(at).String()+": "+word)
			}
		}
		lookAtTexts(f, look)
		lookAtComments(f, look)
	})
	for _, folder := range slices.Sorted(maps.Keys(found)) {
		if n := len(found[folder]); n > vagueCode[folder] {
			t.Errorf("%s has %d vague words, and %d are allowed:\n%s", folder, n, vagueCode[folder], strings.Join(found[folder], "\n"))
		}
	}
	for folder, n := range vagueCode {
		if got := len(found[folder]); got < n {
			t.Errorf("%s has %d vague words: lower its number, %d, in vagueCode", folder, got, n)
		}
	}
}

// lookAtTexts calls look for each string that a user may read: in calls that make
// errors and log messages, in literals of failures and commands, and in the help
// of settings.
func lookAtTexts(f *ast.File, look func(token.Pos, string)) {
	literals := func(n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				text, _ := strconv.Unquote(l.Value) // it was parsed
				look(l.Pos(), text)
			}
			return true
		})
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if i := messageOf(n); i >= 0 && i < len(n.Args) {
				literals(n.Args[i])
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && slices.Contains([]string{"what", "why", "next", "Short", "Long", "Help"}, key.Name) {
				literals(n.Value)
			}
		case *ast.Field:
			if n.Tag != nil {
				look(n.Tag.Pos(), n.Tag.Value)
			}
		}
		return true
	})
}

// messageOf returns which argument of a call is the text of an error or of a line
// of the log, -1 if none is.
func messageOf(call *ast.CallExpr) int {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return -1
	}
	switch f.Sel.Name {
	case "New", "Errorf":
		if x, ok := f.X.(*ast.Ident); !ok || x.Name != "errors" && x.Name != "fmt" {
			return -1
		}
		return 0
	case "Debug", "Info", "Warn", "Error", "DebugContext", "InfoContext", "WarnContext", "ErrorContext":
		if strings.HasSuffix(f.Sel.Name, "Context") {
			return 1
		}
		return 0
	case "LogAttrs", "Log":
		return 2
	}
	return -1
}

// lookAtComments calls look for the comments that documentation shows.
func lookAtComments(f *ast.File, look func(token.Pos, string)) {
	comment := func(doc *ast.CommentGroup) {
		if doc != nil {
			look(doc.Pos(), strings.Join(strings.Fields(doc.Text()), " "))
		}
	}
	comment(f.Doc)
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() {
				comment(d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if !spec.Name.IsExported() {
						continue
					}
					comment(spec.Doc)
					ast.Inspect(spec.Type, func(n ast.Node) bool {
						if field, ok := n.(*ast.Field); ok {
							comment(field.Doc)
							comment(field.Comment)
						}
						return true
					})
				case *ast.ValueSpec:
					if !spec.Names[0].IsExported() {
						continue
					}
					comment(spec.Doc)
					comment(spec.Comment)
				case *ast.ImportSpec:
					continue
				}
				comment(d.Doc)
			}
		}
	}
}

func TestEnglishInPages(t *testing.T) {
	var names []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		matches, err := filepath.Glob(filepath.FromSlash(pattern))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, matches...)
	}
	if len(names) < 20 {
		t.Fatalf("found only %v", names)
	}
	for _, name := range names {
		if path.Base(filepath.ToSlash(name)) == "NEWS.md" { // the past
			continue
		}
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		words, wide := checkPage(string(page))
		allowed := vaguePages[filepath.ToSlash(name)]
		if len(words) > allowed.words {
			t.Errorf("%s has %d vague words, and %d are allowed:\n%s", name, len(words), allowed.words, strings.Join(words, "\n"))
		}
		if len(wide) > allowed.wide {
			t.Errorf("%s has %d lines wider than %d, and %d are allowed:\n%s", name, len(wide), maxWidth, allowed.wide, strings.Join(wide, "\n"))
		}
		if len(words) < allowed.words || len(wide) < allowed.wide {
			t.Errorf("%s: lower its numbers in vaguePages to %d, %d", name, len(words), len(wide))
		}
	}
}

// checkPage returns the lines of a page with vague words, and its lines of prose
// that are too wide. Code is neither; the width of tables is free.
func checkPage(page string) (words, wide []string) {
	fenced := false
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		if fenced || strings.HasPrefix(line, "    ") && !regexp.MustCompile(`^ +(- |\d+\. )`).MatchString(line) || strings.HasPrefix(line, "<!--") {
			continue
		}
		if vague.MatchString(line) {
			words = append(words, line)
		}
		if utf8.RuneCountInString(line) > maxWidth && !strings.HasPrefix(strings.TrimSpace(line), "|") {
			wide = append(wide, line)
		}
	}
	return words, wide
}

func TestCheckPage(t *testing.T) {
	long := strings.Repeat("word ", 30)
	words, wide := checkPage("Nobody waits.\n    nobody, in code\n```\nnobody\n```\n" + long + "\n| " + long + "|\n    " + long + "\nThe client waits.\n")
	if len(words) != 1 || len(wide) != 1 {
		t.Errorf("checkPage finds %q and %q", words, wide)
	}
}
