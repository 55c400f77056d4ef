package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

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
		flags.Var(&FlagText{s.Default, placeholder(s)}, s.Name, usage)
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

func placeholder(s Setting) string {
	switch {
	case s.kind == reflect.TypeFor[time.Duration]():
		return "DURATION"
	case s.kind.Kind() == reflect.Int:
		return "N"
	case s.kind.Kind() == reflect.Bool:
		return "BOOL"
	}
	switch s.Name {
	case "listen":
		return "ADDR"
	case "log-level":
		return "LEVEL"
	case "netrc", "credentials", "hook-secret-file", "log-guard", "htpasswd", "groups", "tokens", "oidc", "tls-cert", "tls-key", "tls-client-ca":
		return "FILE"
	case "access":
		return "RULES"
	case "operators":
		return "GROUPS"
	case "vcs-hosts", "redirect-hosts":
		return "HOSTS"
	case "trusted-proxies":
		return "NETWORKS"
	case "data":
		return "DIR"
	case "upstream":
		return "GOPROXYLIST"
	case "sumdb":
		return "GOSUMDB"
	case "mirror":
		return "KEYS"
	case "private":
		return "PATTERNS"
	case "ca-file":
		return "FILE"
	case "log-format":
		return "FORMAT"
	default:
		return "NAME"
	}
}
