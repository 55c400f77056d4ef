package config

import (
	"regexp"
	"slices"
	"strings"
)

// serviceVariable matches the variables that Kubernetes sets for a service with our name.
var serviceVariable = regexp.MustCompile(`_(PORT|SERVICE)(_|$)`)

// StrayVariables returns the names of variables that look like settings and are none: a misspelled
// ASSAY_PRIVATE would send private names to others. The names in others are known, too.
func StrayVariables(environ, others []string) []string {
	known := append([]string{"ASSAY_CONFIG", "ASSAY_TOKEN", "ASSAY_TOKEN_FILE"}, others...)
	for _, s := range Settings() {
		known = append(known, s.Env, s.FileEnv())
	}
	var stray []string
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "ASSAY_") && value != "" && !slices.Contains(known, name) && !serviceVariable.MatchString(name) {
			stray = append(stray, name)
		}
	}
	return stray
}
