//go:build !unix

package daemon

// descriptorLimit returns noLimit: only memory bounds the handles.
func descriptorLimit() int64 { return noLimit }
