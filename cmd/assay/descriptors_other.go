//go:build !unix

package main

// descriptorLimit returns noLimit: handles are bounded by memory alone.
func descriptorLimit() int64 { return noLimit }
