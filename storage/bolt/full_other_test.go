//go:build !linux

package bolt_test

import "errors"

// Small and read-only disks are tested on Linux only.
func fullDisk(string) error     { return errors.ErrUnsupported }
func readOnlyDisk(string) error { return errors.ErrUnsupported }
