//go:build !linux

package daemon

// containerMemory returns 0: there are no cgroups here. docs/operations.md says so.
func containerMemory(string) int64 { return 0 }

// anonymousMemory reports that it is not known here. docs/operations.md says so.
func anonymousMemory() (bytes int64, ok bool) { return 0, false }
