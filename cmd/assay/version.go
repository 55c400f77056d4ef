package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersionCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Version prints the version, the version of Go and the platform. With --json it prints an
object that has also the commit that was built, its time, and whether files of the checkout
differed from it (dirty). Commit and time are absent if the program was not built in a git
checkout; a version that go install got from a proxy names its commit.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(thisBuild())
			}
			_, err := fmt.Fprint(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print an object")
	return cmd
}

// build says what this program was built from, and for what. Its fields are the output of assay
// version --json, which programs read: none changes its name or its meaning.
type build struct {
	Version string `json:"version"`          // of the module, or devel with the commit
	Commit  string `json:"commit,omitempty"` // 40 digits
	Time    string `json:"time,omitempty"`   // of the commit, RFC 3339
	Dirty   bool   `json:"dirty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func thisBuild() build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return newBuild(info)
}

// newBuild returns what info says of this program.
func newBuild(info *debug.BuildInfo) build {
	b := build{Version: info.Main.Version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Dirty = s.Value == "true"
		}
	}
	if b.Version != "" && b.Version != "(devel)" {
		return b
	}
	b.Version = "devel"
	if b.Commit != "" {
		b.Version += "-" + b.Commit[:min(12, len(b.Commit))]
	}
	if b.Dirty {
		b.Version += "+dirty"
	}
	return b
}

// versionLine returns the output of assay version and assay --version.
func versionLine() string {
	b := thisBuild()
	return fmt.Sprintf("assay %s %s %s/%s\n", b.Version, b.Go, b.OS, b.Arch)
}
