package main_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// filled starts a server that has fetched 12 MB, and returns its data directory.
func filled(t *testing.T, program string) (world *proxytest.World, paths []string, dir, url string, server *exec.Cmd) {
	t.Helper()
	world = proxytest.New(t)
	paths = world.AddBig(12, 1<<20)
	dir = filepath.Join(t.TempDir(), "data")
	url, server = startProcess(t, program, "--data", dir, "--upstream", world.URL("ok"), "--predict=false", "--sumdb", world.GOSUMDB())
	getAll(t, world, url, paths)
	return world, paths, dir, url, server
}

// getAll fetches all paths, whose contents must be those in the world.
func getAll(t *testing.T, world *proxytest.World, url string, paths []string) {
	t.Helper()
	for _, path := range paths {
		status, body := assaytest.Fetch(t, url+"/"+path)
		if status != http.StatusOK || body != string(world.File(path)) {
			t.Errorf("%s: status %d, %d bytes", path, status, len(body))
		}
	}
}

// output runs a command of the program.
func output(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	out, err := assay(program, args...).CombinedOutput()
	return string(out), err
}

// A backup that is killed leaves no file that looks like a backup, and the server keeps running. If
// the server is killed, the backup reports that.
func TestKilledBackup(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world, paths, dir, url, server := filled(t, program)
	backups := t.TempDir()
	name := filepath.Join(backups, "backup.tar")
	cmd := assay(program, "backup", name, "--data", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	assaytest.WaitFor(t, func() bool {
		found, err := filepath.Glob(name + "*")
		return err == nil && len(found) > 0
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()                           // killed
	if _, err := os.Stat(name); err == nil { // the backup was faster
		if out, err := output(t, program, "restore", name, "--data", filepath.Join(t.TempDir(), "data")); err != nil {
			t.Errorf("what has the name of a backup is none: %v\n%s", err, out)
		}
		name = filepath.Join(backups, "another.tar")
	}
	if out, err := output(t, program, "backup", name, "--data", dir); err != nil {
		t.Fatalf("the next backup: %v\n%s", err, out)
	}
	getAll(t, world, url, paths)

	reader := assay(program, "backup", "-", "--data", dir)
	var stderr bytes.Buffer
	reader.Stderr = &stderr
	stdout, err := reader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, stdout, 1<<20); err != nil {
		t.Fatal(err)
	}
	getAll(t, world, url, paths) // the backup is still running, and blocks no client
	kill(t, server)
	_, _ = io.Copy(io.Discard, stdout) // until it ends
	if err := reader.Wait(); err == nil || !strings.Contains(stderr.String(), "the backup was interrupted") {
		t.Errorf("a backup without its server: %v\n%s", err, &stderr)
	}
	if out, err := output(t, program, "verify", "--data", dir); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
}

// A server shuts down gracefully although a backup is not read, and the backup is marked as
// incomplete.
func TestBackupThatIsNotRead(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_, _, dir, _, server := filled(t, program)
	reader := assay(program, "backup", "-", "--data", dir)
	var stderr bytes.Buffer
	reader.Stderr = &stderr
	stdout, err := reader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, stdout, 100_000); err != nil {
		t.Fatal(err)
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	_, _ = io.Copy(io.Discard, stdout) // until it ends
	if err := reader.Wait(); err == nil || !strings.Contains(stderr.String(), "the backup was interrupted") {
		t.Errorf("a backup whose server has stopped: %v\n%s", err, &stderr)
	}
}

// Backups that run while clients fetch contain everything that a client had before, with correct
// contents.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world := proxytest.New(t)
	paths := world.AddBig(60, 100_000)
	dir := filepath.Join(t.TempDir(), "data")
	url, server := startProcess(t, program, "--data", dir, "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB())
	var mu sync.Mutex
	var complete []string
	var clients sync.WaitGroup
	for _, part := range [][]string{paths[:30], paths[30:]} {
		clients.Go(func() {
			for _, path := range part {
				getAll(t, world, url, []string{path})
				mu.Lock()
				complete = append(complete, path)
				mu.Unlock()
			}
		})
	}
	for n := range 4 {
		assaytest.WaitFor(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(complete) >= 12*n
		})
		mu.Lock()
		before := slices.Clone(complete)
		mu.Unlock()
		backup, restored := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "data")
		for _, args := range [][]string{
			{"backup", backup, "--data", dir},
			{"restore", backup, "--data", restored},
			{"verify", "--data", restored},
		} {
			if out, err := output(t, program, args...); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
		url, second := startProcess(t, program, "--data", restored, "--read-only", "--sumdb", world.GOSUMDB())
		getAll(t, world, url, before)
		kill(t, second)
	}
	clients.Wait()
	kill(t, server)
}

// A restore that is killed leaves nothing that a server accepts as a data directory, and the next
// one succeeds.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world, paths, dir, _, server := filled(t, program)
	name := filepath.Join(t.TempDir(), "backup.tar")
	if out, err := output(t, program, "backup", name, "--data", dir); err != nil {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	kill(t, server)
	archive, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	restored := filepath.Join(t.TempDir(), "data")
	for _, part := range []int{10_000, len(archive) / 2, len(archive) - 2000} {
		cmd := assay(program, "restore", "-", "--data", restored)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := stdin.Write(archive[:part]); err != nil {
			t.Fatal(err)
		}
		assaytest.WaitFor(t, func() bool {
			_, err := os.Stat(filepath.Join(restored, "restore.unfinished"))
			return err == nil
		})
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		for _, command := range []string{"serve", "ls", "backup"} {
			args := []string{command, "--data", restored}
			switch command {
			case "serve":
				args = append(args, "--listen", "127.0.0.1:0")
			case "backup":
				args = append(args, name+"2")
			}
			if out, err := output(t, program, args...); err == nil || !strings.Contains(out, "run assay restore again") {
				t.Errorf("%s after a restore that was killed: %v\n%s", command, err, out)
			}
		}
	}
	if out, err := output(t, program, "restore", name, "--data", restored); err != nil {
		t.Fatalf("the next restore: %v\n%s", err, out)
	}
	url, server := startProcess(t, program, "--data", restored, "--upstream", "off", "--sumdb", world.GOSUMDB())
	getAll(t, world, url, paths)
	kill(t, server)
}

// A compaction that is killed leaves a consistent store.
func TestKilledCompact(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world, paths, dir, _, server := filled(t, program)
	for i, module := range []string{"example.com/big0", "example.com/big5", "example.com/big7"} {
		if out, err := output(t, program, "purge", module, "--reason", "test", "--data", dir); err != nil {
			t.Fatalf("purge %d: %v\n%s", i, err, out)
		}
		cmd := assay(program, "compact", "--data", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10*i) * time.Millisecond) // each time at another step
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}
	kill(t, server)
	if out, err := output(t, program, "compact", "--data", dir); err != nil && !strings.Contains(out, "no way to make holes") {
		t.Errorf("compact: %v\n%s", err, out)
	}
	if out, err := output(t, program, "verify", "--data", dir); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	url, server := startProcess(t, program, "--data", dir, "--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB())
	getAll(t, world, url, paths)
	kill(t, server)
}
