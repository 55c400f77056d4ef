//go:build !linux

package daemon

// containerMemory returns 0: this system has no cgroups. docs/operations.md says so.
func containerMemory(string) int64 { return 0 }

// anonymousMemory returns false: its value is not known on this system. docs/operations.md says so.
func anonymousMemory() (bytes int64, ok bool) { return 0, false }
