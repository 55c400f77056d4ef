package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// machine runs programs in directories of one run.
type machine struct {
	ctx   context.Context
	dir   string // for all files; removed at the end
	slice time.Duration
	dirs  int // directories made
}

// newDir creates a new empty directory and returns its name.
func (m *machine) newDir() (string, error) {
	m.dirs++
	dir := fmt.Sprintf("%s/%d", m.dir, m.dirs)
	return dir, os.MkdirAll(dir, 0o755)
}

// process is a server under measurement.
type process struct {
	url string
	cmd *exec.Cmd
}

// start starts a server and waits until it responds at ready. With oneCore it has processor 0 for
// itself.
func (m *machine) start(ready string, oneCore bool, env []string, program string, args ...string) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return m.startAt(address, ready, oneCore, env, program, args...)
}

// startAt is start for a server at an address, which replaces ADDRESS in args and env.
func (m *machine) startAt(address, ready string, oneCore bool, env []string, program string, args ...string) (*process, error) {
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "ADDRESS", address)
	}
	for i := range env {
		env[i] = strings.ReplaceAll(env[i], "ADDRESS", address)
	}
	if oneCore {
		args = append([]string{"-c", "0", program}, args...)
		program = "taskset"
		env = append(env, "GOMAXPROCS=1")
	}
	cmd := exec.CommandContext(m.ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = m.dir
	// The log goes to a file, as in production.
	out, err := os.CreateTemp(m.dir, "log-")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{url: "http://" + address, cmd: cmd}
	if err := p.wait(ready); err != nil {
		p.stop()
		text, _ := os.ReadFile(out.Name())
		return nil, fmt.Errorf("%s does not answer: %w\n%.1000s", filepath.Base(program), err, text)
	}
	return p, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// wait waits until the server answers with 200.
func (p *process) wait(ready string) error {
	err := errors.New("no time")
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var resp *http.Response
		if resp, err = http.Get(p.url + ready); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
	}
	return err
}

// stop ends the server.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	killer := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer killer.Stop()
	_ = p.cmd.Wait() // its exit status does not matter
}

// memory returns a line of /proc/PID/status, VmRSS or VmHWM, in bytes.
func (p *process) memory(line string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(status), line+":")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, fmt.Errorf("no %s in the status of the process", line)
	}
	kilobytes, err := strconv.ParseInt(fields[0], 10, 64)
	return kilobytes << 10, err
}

// cpu returns the seconds of processor time that the process has used.
func (p *process) cpu() (float64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])) // proc_pid_stat(5), from the state on
	if len(fields) < 13 {
		return 0, fmt.Errorf("statistics of a process: %q", stat)
	}
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100, errors.Join(err1, err2) // Linux has 100 of these ticks a second
}

// get reads the whole body at a URL and returns its size.
func get(ctx context.Context, url string) (int64, error) {
	return getInto(ctx, http.DefaultClient, url, io.Discard)
}

// getInto is get with a client that writes the body into w.
func getInto(ctx context.Context, client *http.Client, url string, w io.Writer) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return 0, fmt.Errorf("GET %s: %s: %s", url, resp.Status, text)
	}
	return io.Copy(w, resp.Body)
}

// newClient returns a client with connections of its own, as each go command has them.
func newClient() *http.Client {
	return &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
}

// getAll reads the bodies of all paths, with some clients at the same time, and returns their size.
func (m *machine) getAll(clients int, url string, paths []string) (int64, error) {
	client := newClient()
	defer client.CloseIdleConnections()
	return getAll(m.ctx, client, clients, url, paths)
}

func getAll(ctx context.Context, client *http.Client, width int, url string, paths []string) (int64, error) {
	var next, size atomic.Int64
	errs := make([]error, width)
	var wg sync.WaitGroup
	for i := range width {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(len(paths)) && errs[i] == nil; n = next.Add(1) {
				var got int64
				got, errs[i] = getInto(ctx, client, url+paths[n-1], io.Discard)
				size.Add(got)
			}
		})
	}
	wg.Wait()
	return size.Load(), errors.Join(errs...)
}

// wrk returns the requests per second that the server completes for 16 clients on the other
// processor.
func (m *machine) wrk(url string, args ...string) (float64, error) {
	return m.requests(url, "taskset", append([]string{"-c", "1", "wrk", "-t1", "-c16"}, args...)...)
}

// load is wrk on any processor, with the number of threads and clients in args.
func (m *machine) load(url string, args ...string) (float64, error) {
	return m.requests(url, "wrk", args...)
}

// requests runs a command that runs wrk.
func (m *machine) requests(url, name string, args ...string) (float64, error) {
	args = append(args, fmt.Sprintf("-d%ds", max(1, int(m.slice.Seconds()))), url)
	out, err := exec.CommandContext(m.ctx, name, args...).Output()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w", err)
	}
	if strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return 0, fmt.Errorf("wrk: not all answers were good: %s", out)
	}
	_, rest, ok := strings.Cut(string(out), "Requests/sec:")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, fmt.Errorf("wrk: %s", out)
	}
	return strconv.ParseFloat(fields[0], 64)
}

// dropCaches empties the page cache.
func dropCaches() error {
	if err := exec.Command("sync").Run(); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("the page cache cannot be dropped: %w", err)
	}
	return nil
}
