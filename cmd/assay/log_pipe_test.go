//go:build unix

package main_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
)

// piped is assay serve whose standard output and error are the ends of one pipe, which the test
// reads only at certain points.
type piped struct {
	t      *testing.T
	url    string
	cmd    *exec.Cmd
	reader *os.File
	ended  chan error
}

// pipedServe starts it. It calls before with the pipe first.
func pipedServe(t *testing.T, before func(writer *os.File), args ...string) *piped {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	before(writer)
	addr := freeAddr(t)
	p := &piped{t: t, url: "http://" + addr, reader: reader, ended: make(chan error, 1)}
	p.cmd = assay(program, append([]string{"serve", "--listen", addr, "--data", t.TempDir(), "--sumdb", "off"}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = writer, writer
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); reader.Close() })
	assaytest.WaitFor(t, func() bool {
		resp, err := http.Get(p.url + "/livez")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	return p
}

// freeAddr returns an address on which nothing listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// fillPipe fills a pipe, usually of 64 KiB, so that the next write blocks.
func fillPipe(t *testing.T) func(writer *os.File) {
	return func(writer *os.File) {
		t.Helper()
		if err := writer.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		line := bytes.Repeat([]byte("x"), 1023)
		for err := error(nil); err == nil; {
			_, err = writer.Write(append(line, '\n'))
		}
		if err := writer.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
}

func empty(*os.File) {}

// ask sends n requests whose access lines are long, and one that is refused.
func (p *piped) ask(n int) {
	p.t.Helper()
	for i := range n {
		if status, _ := assaytest.Fetch(p.t, p.url+"/"+strings.Repeat("a", 8000)); status != http.StatusNotFound {
			p.t.Fatalf("request %d: %d", i, status)
		}
	}
	if status, body := assaytest.Fetch(p.t, p.url+"/example.com/a/@v/v1.0.0.mod"); status != http.StatusBadGateway {
		p.t.Errorf("status %d %s", status, body)
	}
}

// wantEnd sends the signal and waits for the end of the process.
func (p *piped) wantEnd(signal os.Signal, status int) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.ended:
		if got := p.cmd.ProcessState.ExitCode(); got != status {
			p.t.Errorf("exit status %d (%v), want %d", got, p.cmd.ProcessState, status)
		}
	case <-time.After(time.Minute):
		p.t.Fatal("it does not end")
	}
}

// A log that is not read blocks neither the start nor a response nor the end. Lines without room
// are counted, and the count is logged when the log is read again: access lines are dropped first,
// and no warning is missing.
func TestLogPipeNotRead(t *testing.T) {
	t.Parallel()
	p := pipedServe(t, fillPipe(t), "--upstream", "http://127.0.0.1:1", "--attempts", "1")
	const rounds, each = 10, 20
	for range rounds {
		p.ask(each) // 8 KB each
	}
	if status, body := assaytest.Fetch(t, p.url+"/livez"); status != http.StatusOK {
		t.Errorf("livez: %d %s", status, body)
	}
	_, metrics := assaytest.Fetch(t, p.url+"/metrics")
	dropped := regexp.MustCompile(`assay_logging_dropped_lines_total\{kind="(\w+)"\} (\d+)`).FindAllStringSubmatch(metrics, -1)
	if len(dropped) != 3 || dropped[0][1] != "info" || dropped[0][2] != "0" || dropped[1][1] != "request" || dropped[1][2] == "0" || dropped[2][2] != "0" {
		t.Errorf("dropped are %q, want requests alone", dropped)
	}

	var log assaytest.Output
	read := make(chan error, 1)
	go func() { _, err := io.Copy(&log, p.reader); read <- err }()
	assaytest.WaitFor(t, func() bool { return strings.Contains(log.String(), "log lines dropped") })
	p.wantEnd(syscall.SIGTERM, 0)
	if err := <-read; err != nil {
		t.Error(err)
	}
	text := log.String()
	for _, want := range []string{"Assay serves http://localhost:", "assay starts", "msg=stopped"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	said := 0
	for _, report := range regexp.MustCompile(`requests=(\d+) infos=0 warnings=0`).FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(report[1])
		said += n
	}
	if written := strings.Count(text, "path=/aaa"); said < rounds || said+written < rounds*each || written == 0 {
		t.Errorf("of %d requests %d are in the log, and %d are said to be missing", rounds*each, written, said)
	}
	if n := strings.Count(text, "request refused"); n != rounds {
		t.Errorf("the log has %d of %d refused requests", n, rounds)
	}
	// The announcement, on the same pipe, may be in the middle of a large write.
	text = regexp.MustCompile(`Assay serves .*\nConfigure the go command: .*\n`).ReplaceAllString(text, "")
	for line := range strings.Lines(text) {
		if !regexp.MustCompile(`^(x*time=.*|x+)\n$`).MatchString(line) {
			t.Errorf("a line is not whole: %.200q", line)
		}
	}
}

// With a log that is never read the program ends all the same, and soon.
func TestLogPipeNotReadAtEnd(t *testing.T) {
	t.Parallel()
	p := pipedServe(t, fillPipe(t), "--upstream", "http://127.0.0.1:1", "--attempts", "1")
	p.ask(5)
	p.wantEnd(syscall.SIGTERM, 0)
}

// A start that is refused ends, too.
func TestLogPipeNotReadAtRefusal(t *testing.T) {
	t.Parallel()
	p := pipedServe(t, fillPipe(t), "--upstream", "off")
	second := assay(p.cmd.Path, "serve", "--listen", strings.TrimPrefix(p.url, "http://"), "--data", t.TempDir())
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	fillPipe(t)(writer)
	second.Stderr = writer
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	ended := make(chan error, 1)
	go func() { ended <- second.Wait() }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		_ = second.Process.Kill()
		t.Error("it does not end")
	}
	p.wantEnd(syscall.SIGTERM, 0)
}

// writeDelay is how long a line waits for others, at most.
const writeDelay = 200 * time.Millisecond

// The reader of the log may end: the program keeps running.
func TestLogPipeClosed(t *testing.T) {
	t.Parallel()
	p := pipedServe(t, empty, "--upstream", "http://127.0.0.1:1", "--attempts", "1")
	if err := p.reader.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.ask(2)
		time.Sleep(writeDelay) // so that each line is written
	}
	_, metrics := assaytest.Fetch(t, p.url+"/metrics")
	if !regexp.MustCompile(`assay_logging_dropped_lines_total\{kind="warning"\} [1-9]`).MatchString(metrics) {
		t.Error("the lines that could not be written are not counted")
	}
	p.wantEnd(syscall.SIGTERM, 0)
}

// Lines before a crash are written, and so is the runtime's message about it.
func TestLogPipeCrash(t *testing.T) {
	t.Parallel()
	p := pipedServe(t, empty, "--upstream", "http://127.0.0.1:1", "--attempts", "1")
	var log assaytest.Output
	read := make(chan error, 1)
	go func() { _, err := io.Copy(&log, p.reader); read <- err }()
	p.ask(1)
	p.wantEnd(syscall.SIGQUIT, 2)
	<-read
	text := log.String()
	refused, crash := strings.Index(text, "request refused"), strings.Index(text, "SIGQUIT: quit")
	if refused < 0 || crash < refused || !strings.Contains(text[crash:], "goroutine ") {
		t.Errorf("the log is %s", text)
	}
	// A fatal error of our own is the last line.
	out, err := assay(p.cmd.Path, "serve", "--listen", "127.0.0.1:0", "--data", os.DevNull+"/x").CombinedOutput()
	if err == nil || !bytes.HasPrefix(lastLine(out), []byte("assay: ")) {
		t.Errorf("%v, %s", err, out)
	}
}

func lastLine(text []byte) []byte {
	text = bytes.TrimSpace(text)
	return text[bytes.LastIndexByte(text, '\n')+1:]
}
