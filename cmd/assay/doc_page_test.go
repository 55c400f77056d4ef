package main_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docStep is a block of code of a page, or commands in a comment of the page that readers do not see.
// Comments directly above a block say what a test does with it; without any, the block is run.
//
//	<!-- not run: REASON -->       the block is only read
//	<!-- file: NAME -->            the block is written into a file, for the commands after it
//	<!-- run: fails -->            the last command of the block must fail
//	<!-- run: numbers differ -->   numbers in its output are not compared
//	<!-- run: TEXT is WORD -->     WORD, in the syntax of bash, is used instead of TEXT, which stands
//	                               for something in the output
//	<!-- also run: COMMANDS -->    commands of their own, over one or more lines
//
// In shown output … stands for any text, and a line … for any lines.
type docStep struct {
	Line    int      // of the first line of code, from 1
	Code    []string // lines, without their indentation
	NotRun  string   // the reason
	File    string   // name of the file
	Hidden  bool     // commands in a comment
	Fails   bool
	Numbers bool // are not compared
	Values  []string
}

var (
	docComment = regexp.MustCompile(`(?s)^<!-- (not run|file|run|also run):(.*?)-->$`)
	docValue   = regexp.MustCompile(`^(\S+) is (.+)$`)
)

// parsePage returns the steps of a page, and what is wrong with its comments.
func parsePage(text string) (steps []docStep, wrong []string) {
	lines := strings.Split(text, "\n")
	next, marked := docStep{}, 0
	refuse := func(at int, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("line %d: %s", at+1, fmt.Sprintf(format, args...)))
	}
	for i := 0; i < len(lines); i++ {
		begin := i
		switch line := lines[i]; {
		case strings.HasPrefix(strings.TrimLeft(line, " "), "<!--") && !strings.HasPrefix(line, "    "):
			for i < len(lines)-1 && !strings.HasSuffix(lines[i], "-->") {
				i++
			}
			found := docComment.FindStringSubmatch(strings.TrimSpace(strings.Join(lines[begin:i+1], "\n")))
			switch {
			case found == nil: // a comment like others
			case found[1] == "also run":
				step := docStep{Line: begin + 1, Hidden: true}
				for line := range strings.SplitSeq(found[2], "\n") {
					step.Code = append(step.Code, strings.TrimSpace(line))
				}
				steps = append(steps, step)
			case !next.mark(found[1], strings.TrimSpace(found[2])):
				refuse(begin, "unknown: %s", line)
			default:
				marked = begin + 1
			}
		case strings.HasPrefix(line, "```"):
			for i++; i < len(lines) && !strings.HasPrefix(lines[i], "```"); i++ {
				next.Code = append(next.Code, lines[i])
			}
			begin++
		case strings.HasPrefix(line, "    ") && (i == 0 || lines[i-1] == ""):
			for ; i < len(lines) && (lines[i] == "" || strings.HasPrefix(lines[i], "    ")); i++ {
				next.Code = append(next.Code, strings.TrimPrefix(lines[i], "    "))
			}
			i--
			for next.Code[len(next.Code)-1] == "" {
				next.Code = next.Code[:len(next.Code)-1]
			}
		case line != "" && marked > 0:
			refuse(marked-1, "no block of code follows")
			next, marked = docStep{}, 0
		}
		if next.Code != nil {
			next.Line = begin + 1
			steps = append(steps, next)
			next, marked = docStep{}, 0
		}
	}
	if marked > 0 {
		refuse(marked-1, "no block of code follows")
	}
	return steps, wrong
}

// mark notes what a comment says about the next block, false if it is not known.
func (s *docStep) mark(what, text string) bool {
	value := docValue.FindStringSubmatch(text)
	switch {
	case what == "not run":
		s.NotRun = text
		return len(strings.Fields(text)) > 2
	case what == "file":
		s.File = text
		return text != ""
	case text == "fails":
		s.Fails = true
	case text == "numbers differ":
		s.Numbers = true
	case value != nil:
		s.Values = append(s.Values, value[1], value[2])
	default:
		return false
	}
	return true
}

// docCommand is a command of a step, with the output that the page shows.
type docCommand struct {
	Line  int
	Text  string // may have more than one line
	Shown []string
}

var hereDocument = regexp.MustCompile(`<<-?'?(\w+)'?`)

// commands returns the commands of a step. If a line begins with a prompt, only such lines are
// commands, and the others are output.
func (s *docStep) commands() []docCommand {
	session := false
	for _, line := range s.Code {
		session = session || strings.HasPrefix(line, "$ ")
	}
	var all []docCommand
	for i := 0; i < len(s.Code); i++ {
		text, prompt := strings.CutPrefix(s.Code[i], "$ ")
		switch {
		case session && !prompt:
			if len(all) > 0 {
				all[len(all)-1].Shown = append(all[len(all)-1].Shown, text)
			}
			continue
		case !session && (text == "" || strings.HasPrefix(text, "#")):
			continue
		}
		command := docCommand{Line: s.Line + i, Text: text}
		end := ""
		if found := hereDocument.FindStringSubmatch(text); found != nil {
			end = found[1]
		}
		for ; i < len(s.Code)-1 && (end != "" && s.Code[i] != end || strings.HasSuffix(s.Code[i], `\`) ||
			!session && strings.HasPrefix(s.Code[i+1], " ")); i++ {
			command.Text += "\n" + s.Code[i+1]
		}
		all = append(all, command)
	}
	return all
}

func TestParsePage(t *testing.T) {
	t.Parallel()
	steps, wrong := parsePage(`# Page

    one
    two \
      three
<!-- other:begin -->
<!-- not run: needs a machine -->
<!-- run: fails -->

    four

<!-- also run:
    five
-->
` + "```sh\n$ cat <<EOF\n$ six\nEOF\nseven\n```\n" + `
<!-- run: maybe -->
<!-- not run: no -->
<!-- file: name -->
text
    no code
<!-- run: id is $(key) -->`)
	want := []docStep{
		{Line: 3, Code: []string{"one", "two \\", "  three"}},
		{Line: 10, Code: []string{"four"}, NotRun: "needs a machine", Fails: true},
		{Line: 12, Code: []string{"", "five", ""}, Hidden: true},
		{Line: 16, Code: []string{"$ cat <<EOF", "$ six", "EOF", "seven"}},
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"line 22: unknown: <!-- run: maybe -->", "line 23: unknown: <!-- not run: no -->",
		"line 24: no block of code follows", "line 27: no block of code follows"}, wrong); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]docCommand{{3, "one", nil}, {4, "two \\\n  three", nil}}, steps[0].commands()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]docCommand{{16, "cat <<EOF\n$ six\nEOF", []string{"seven"}}}, steps[3].commands()); diff != "" {
		t.Error(diff)
	}
}
