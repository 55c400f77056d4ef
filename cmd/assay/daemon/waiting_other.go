//go:build !unix

package daemon

import "net"

// connectionWaits is not implemented for this system: connections that wait in the kernel when the
// server stops are reset.
func connectionWaits(net.Listener) bool { return false }
