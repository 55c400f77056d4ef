package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var releaseDocs = flag.String("release-docs", "", "write man pages and completions into this directory, for a release")

// Each command has a man page that names its flags, and each shell its completions. With
// -release-docs, as in deploy/release/build, they are kept: a program that is installed has them as
// files, and need not contain what generates them.
func TestReleaseDocs(t *testing.T) {
	t.Parallel()
	dir := *releaseDocs
	if dir == "" {
		dir = t.TempDir()
	}
	root := newCommand()
	root.DisableAutoGenTag = true
	// The date is that of SOURCE_DATE_EPOCH, so that a release can be made again.
	header := &doc.GenManHeader{Section: "1", Source: "Assay", Manual: "Assay"}
	if os.Getenv("SOURCE_DATE_EPOCH") == "" {
		header.Date = new(time.Time)
	}
	if err := doc.GenManTree(root, header, dir); err != nil {
		t.Fatal(err)
	}
	visit(root, func(cmd *cobra.Command) {
		page, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".1"))
		if err != nil {
			t.Error(err)
			return
		}
		if cmd.HasAvailableLocalFlags() && !strings.Contains(string(page), ".SH OPTIONS") {
			t.Errorf("the man page of %q has no flags", cmd.CommandPath())
		}
	})
	for name, generate := range map[string]func(string) error{
		"assay.bash": func(name string) error { return root.GenBashCompletionFileV2(name, true) },
		"_assay":     root.GenZshCompletionFile,
		"assay.fish": func(name string) error { return root.GenFishCompletionFile(name, true) },
		"assay.ps1":  root.GenPowerShellCompletionFileWithDesc,
	} {
		path := filepath.Join(dir, name)
		if err := generate(path); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "__complete") {
			t.Errorf("%s does not ask the program: %v", name, err)
		}
	}
}

// visit calls f with cmd and all commands below it that users see.
func visit(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			visit(c, f)
		}
	}
}
