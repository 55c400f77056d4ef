package daemon_test

import (
	"net"
	"net/http"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
)

// A probe is answered while clients have the memory of all connections, and while another machine holds
// as many connections as it may: an orchestrator would end the program.
func TestProbesBesideFullListener(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer daemon.FullMonitor(l, config.LeastMemory)()
	for range 60 {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", l.Addr().String())
		if err != nil {
			t.Skip(err) // a system with one address of its own
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("GET /livez HTTP/1.1\r\n")) // a request that does not end
	}
	resp, _, err := ask(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "http://"+l.Addr().String()+"/livez")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the probe: %v, %v", resp, err)
	}
}
