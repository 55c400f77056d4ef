//go:build unix

package main_test

import (
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

// serviceManager is what a program sees of systemd: the socket for its notifications.
type serviceManager struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // a path that is short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &serviceManager{t: t, path: filepath.Join(dir, "socket")}
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.conn.Close() })
	return m
}

// until returns the notifications up to the first one with an assignment.
func (m *serviceManager) until(assignment string) []string {
	m.t.Helper()
	var all []string
	if err := m.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		m.t.Fatal(err)
	}
	for buffer := make([]byte, 4096); ; {
		n, err := m.conn.Read(buffer)
		if err != nil {
			m.t.Fatalf("no %s after %q: %v", assignment, all, err)
		}
		all = append(all, string(buffer[:n]))
		if strings.Contains("\n"+all[len(all)-1]+"\n", "\n"+assignment+"\n") {
			return all
		}
	}
}

// The program tells the service manager that it is ready when /readyz is, what a reload does, and
// that it stops.
func TestNotify(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	manager := newServiceManager(t)
	file := filepath.Join(t.TempDir(), "assay.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	url, cmd := startProcessIn(t, []string{"NOTIFY_SOCKET=" + manager.path}, program, "--data", t.TempDir(), "--upstream", "off", "--sumdb", "off", "--config", file,
		"--shutdown-timeout", "5m")
	told := manager.until("READY=1")
	if told[0] != "STATUS=opening the store" || !strings.Contains(told[len(told)-1], "STATUS=serving on 127.0.0.1:") {
		t.Errorf("at the start: %q", told)
	}
	if status, body := assaytest.Fetch(t, url+"/readyz"); status != http.StatusOK {
		t.Errorf("after READY=1 /readyz is %d %s", status, body)
	}
	for _, reload := range []struct{ file, status string }{{`log_level = "debug"`, ""}, {"no such key = 1", "refused"}, {"", ""}} {
		write(reload.file)
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		told := manager.until("READY=1")
		if !strings.HasPrefix(told[0], "RELOADING=1\n") || runtime.GOOS == "linux" && !strings.Contains(told[0], "\nMONOTONIC_USEC=") {
			t.Errorf("a reload begins with %q", told)
		}
		if last := told[len(told)-1]; strings.Contains(last, "refused") != (reload.status != "") {
			t.Errorf("reload of %q: %q", reload.file, last)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if told := manager.until("STOPPING=1"); !strings.Contains(told[len(told)-1], "EXTEND_TIMEOUT_USEC=330000000") {
		t.Errorf("with a shutdown-timeout of five minutes: %q", told)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// While the keys of a store are moved, the program is not ready, says how far it is, and asks for
// more time than the service manager allows for a start.
func TestNotifyMove(t *testing.T) {
	t.Parallel()
	d := openOldData(t, filepath.Join(dataDirs, "2026-11-unproved.tar.gz"))
	manager := newServiceManager(t)
	args := append(strings.Fields(d.read("args")), "--upstream", "off", "--data", filepath.Join(d.dir, "data"))
	_, cmd := startProcessIn(t, []string{"NOTIFY_SOCKET=" + manager.path}, d.program, args...)
	var moving int
	for _, told := range manager.until("READY=1") {
		if strings.HasPrefix(told, "EXTEND_TIMEOUT_USEC=") && strings.Contains(told, "\nSTATUS=moving the keys of the store: ") {
			moving++
		}
	}
	if moving < 2 { // at the beginning and at the end
		t.Errorf("it has said %d times how far it is", moving)
	}
	kill(t, cmd)
}

// The program responds to the watchdog of the service manager.
func TestNotifyWatchdog(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	manager := newServiceManager(t)
	_, cmd := startProcessIn(t, []string{"NOTIFY_SOCKET=" + manager.path, "WATCHDOG_USEC=300000"}, program,
		"--data", t.TempDir(), "--upstream", "off", "--sumdb", "off", "--prefix", "/go", "--anonymous=false")
	for range 3 {
		manager.until("WATCHDOG=1")
	}
	kill(t, cmd)
}

// passSockets returns a command that becomes the program with files as its sockets, as systemd
// passes them.
func passSockets(t *testing.T, names string, files []*os.File, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "assay") // see testscript.Main
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, link, "serve", "--access-log=false", "--upstream", "off", "--sumdb", "off"}, args...)...)
	cmd.Env = []string{quickExit, "LISTEN_FDS=" + strconv.Itoa(len(files)), "LISTEN_FDNAMES=" + names}
	cmd.ExtraFiles = files
	return cmd
}

// listenFile opens a socket as systemd does.
func listenFile(t *testing.T) (addr string, file *os.File) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if file, err = l.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return l.Addr().String(), file
}

// With the socket of a service manager no request fails while the program restarts, again and
// again: it waits.
func TestPassedSocketRestart(t *testing.T) {
	t.Parallel()
	addr, file := listenFile(t)
	data := t.TempDir()
	start := func() *exec.Cmd {
		t.Helper()
		cmd := passSockets(t, "assay.socket", []*os.File{file}, "--data", data)
		if url := startCommand(t, cmd); url != "http://"+strings.Replace(addr, "127.0.0.1", "localhost", 1) {
			t.Errorf("it serves %s, not %s", url, addr)
		}
		return cmd
	}
	cmd := start()
	var stop atomic.Bool
	var requests atomic.Int64
	var running sync.WaitGroup
	defer running.Wait()
	defer stop.Store(true)
	for range 4 {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
		running.Go(func() {
			for !stop.Load() && !t.Failed() {
				resp, err := client.Get("http://" + addr + "/livez")
				if err == nil && resp.Body.Close() == nil && resp.StatusCode != http.StatusOK {
					err = errors.New(resp.Status)
				}
				if err != nil {
					t.Error(err)
				}
				requests.Add(1)
			}
		})
	}
	for range 5 {
		before := requests.Load()
		assaytest.WaitFor(t, func() bool { return requests.Load() > before+20 })
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		cmd = start()
	}
	stop.Store(true)
	running.Wait()
	t.Logf("%d requests", requests.Load())
	kill(t, cmd)
}

// Sockets win over the settings that they replace, and one without a use is refused.
func TestPassedSockets(t *testing.T) {
	t.Parallel()
	addr, file := listenFile(t)
	machines, machinesFile := listenFile(t)
	other, otherFile := listenFile(t)

	cmd := passSockets(t, "assay.socket:metrics-listen", []*os.File{file, machinesFile},
		"--data", t.TempDir(), "--listen", other, "--metrics-listen", other)
	startCommand(t, cmd)
	if status, _ := assaytest.Fetch(t, "http://"+addr+"/readyz"); status != http.StatusOK {
		t.Errorf("the first socket has status %d", status)
	}
	if status, body := assaytest.Fetch(t, "http://"+machines+"/metrics"); status != http.StatusOK || !strings.Contains(body, "assay_build_info") {
		t.Errorf("the socket for metrics has status %d", status)
	}
	if log := cmd.Stderr.(*assaytest.Output).String(); !strings.Contains(log, "setting=listen value="+other+" socket="+addr) {
		t.Errorf("the log does not say which socket is used:\n%s", log)
	}
	kill(t, cmd)

	for names, want := range map[string]string{
		"a:b":              "two sockets for listen",
		"a:metrics-listen": "metrics-listen, which is not set",
	} {
		out, err := passSockets(t, names, []*os.File{file, otherFile}, "--data", t.TempDir()).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("sockets %s: %v\n%s", names, err, out)
		}
	}
}
