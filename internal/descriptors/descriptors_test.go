package descriptors_test

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/internal/descriptors"
)

func TestExhausted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want bool
	}{
		{&os.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}, true},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.ENFILE)}, true},
		{fmt.Errorf("lookup: %w", &net.DNSError{Err: "dial udp: socket: too many open files", Name: "x.example"}), true},
		{&net.DNSError{Err: "no such host", Name: "x.example"}, false},
		{syscall.ENOENT, false},
		{nil, false},
	} {
		if got := descriptors.Exhausted(test.err); got != test.want {
			t.Errorf("Exhausted(%v) = %v", test.err, got)
		}
	}
}
