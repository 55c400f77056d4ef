//go:build !unix

package daemon

// descriptorLimit returns noLimit: handles are bounded by memory alone.
func descriptorLimit() int64 { return noLimit }
