package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// AddFlags adds a flag for each setting, or for the named ones, and one for the file. The value of a
// flag stays text: Load parses it like the value from any other source.
func AddFlags(flags *pflag.FlagSet, names ...string) {
	flags.SortFlags = false // the most important flags come first
	flags.Var(&FlagText{Kind: "FILE"}, "config", "TOML file with settings; assay config prints one. (ASSAY_CONFIG)")
	for _, s := range Settings() {
		if names != nil && !slices.Contains(names, s.Name) {
			continue
		}
		usage := fmt.Sprintf("%s (%s)", s.Help, strings.Join(s.Variables(), ", "))
		flags.Var(&FlagText{s.Default, s.Value}, s.Name, usage)
		if s.field.Type.Kind() == reflect.Bool {
			flags.Lookup(s.Name).NoOptDefVal = "true"
		}
	}
}

// FlagText is the value of a flag, with the kind that --help shows.
type FlagText struct{ Text, Kind string }

func (f *FlagText) String() string        { return f.Text }
func (f *FlagText) Set(text string) error { f.Text = text; return nil }
func (f *FlagText) Type() string          { return f.Kind }
