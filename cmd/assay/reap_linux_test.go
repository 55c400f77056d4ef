package main_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

// process is a line of the process table.
type process struct {
	parent int
	name   string
	dead   bool // a zombie
}

// processes reads the table.
func processes(t *testing.T) map[int]process {
	t.Helper()
	all := map[int]process{}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
		fields := strings.Fields(string(data[end+1:]))
		pid, err1 := strconv.Atoi(strings.TrimSpace(string(data[:open])))
		parent, err2 := strconv.Atoi(fields[1])
		if err1 != nil || err2 != nil {
			t.Fatalf("%s: %q", file, data)
		}
		all[pid] = process{parent, string(data[open+1 : end]), fields[0] == "Z"}
	}
	return all
}

// As process 1, which the program is in a container, it reads the exit status of the processes that
// a killed fetch has left, and of none that os/exec waits for: fetches keep working.
func TestReapsAsInit(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	cmd := assay(p.program, append([]string{"serve", "--listen", "127.0.0.1:0", "--access-log=false", "--vcs-timeout", "8s"}, p.args...)...)
	cmd.Env = p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWPID | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
	}
	probe := assay(p.program, "version")
	probe.SysProcAttr = cmd.SysProcAttr
	if out, err := probe.CombinedOutput(); err != nil {
		t.Skipf("no namespace of processes can be made here: %v %s", err, out)
	}
	p.url = startCommand(t, cmd)
	// On a busy machine, a fetch may need more than its time, and continues later.
	fetch := func(path string, want int) {
		t.Helper()
		var (
			body   []byte
			status int
			err    error
		)
		for begin := time.Now(); time.Since(begin) < 3*time.Minute; {
			body, status, err = p.get(path)
			if err == nil && (status == want || status != http.StatusGatewayTimeout) {
				break
			}
		}
		if err != nil || status != want {
			t.Errorf("%s: %d %s %v, want %d", path, status, body, err, want)
		}
	}
	zip := func(i int) string { return p.versions[i].Path + "/@v/" + p.versions[i].Version + ".zip" }
	fetch(zip(0), http.StatusOK)

	// Two repositories hang, so two fetches are killed with the processes that they have started.
	p.code.Hang(true)
	var clients sync.WaitGroup
	orphans := func() bool { // there is a child of a child
		all := processes(t)
		for _, process := range all {
			if parent := all[process.parent]; parent.parent == cmd.Process.Pid && !process.dead {
				return true
			}
		}
		return false
	}
	had := false
	for range 10 { // on a busy machine, a fetch may be killed before it has any
		ended := make(chan struct{})
		for _, i := range []int{1, 9} {
			clients.Go(func() { fetch(zip(i), http.StatusGatewayTimeout) })
		}
		go func() { clients.Wait(); close(ended) }()
		for running := true; running; time.Sleep(20 * time.Millisecond) {
			had = had || orphans()
			select {
			case <-ended:
				running = false
			default:
			}
		}
		if had {
			break
		}
	}
	if !had {
		t.Error("what was killed had no children, so the test shows nothing")
	}
	assaytest.WaitFor(t, func() bool {
		for _, process := range processes(t) {
			if process.dead && process.parent == cmd.Process.Pid {
				return false
			}
		}
		return true
	})

	// The exit status of the commands themselves is not lost.
	p.code.Hang(false)
	for i := range 4 {
		clients.Go(func() { fetch(zip(i*6+2), http.StatusOK) })
	}
	clients.Wait()
	fetch("corp.example/m0/@v/v1.99.0.zip", http.StatusNotFound)

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error("at the end: ", err)
	}
}
