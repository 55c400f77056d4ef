package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// AddFlags adds a flag for each setting, or for those that are named, and one for
// the file. The flags are strings (or, for switches, may be): Load gives
// them their meaning, the same as everywhere else.
func AddFlags(flags *pflag.FlagSet, names ...string) {
	flags.SortFlags = false // what matters most comes first
	flags.Var(&FlagText{Kind: "FILE"}, "config", "TOML file with settings; assay config prints one. (ASSAY_CONFIG)")
	for _, s := range Settings() {
		if names != nil && !slices.Contains(names, s.Name) {
			continue
		}
		usage := fmt.Sprintf("%s (%s)", s.Help, strings.Join(append([]string{s.Env}, s.GoEnv...), ", "))
		flags.Var(&FlagText{s.Default, s.Value}, s.Name, usage)
		if s.kind.Kind() == reflect.Bool {
			flags.Lookup(s.Name).NoOptDefVal = "true"
		}
	}
}

// FlagText is the value of a flag, which --help calls by its kind.
type FlagText struct{ Text, Kind string }

func (f *FlagText) String() string        { return f.Text }
func (f *FlagText) Set(text string) error { f.Text = text; return nil }
func (f *FlagText) Type() string          { return f.Kind }
