package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// On a file system that is mounted to be read, a server and the commands that read do their
// work, and the others say why they cannot.
func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	world, paths, filledDir, _, server := filled(t, program)
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	disk, link := filepath.Join(dir, "disk"), filepath.Join(dir, "assay") // the name says what this program is to be
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	mounted := func(args ...string) *exec.Cmd {
		script := `mount -t tmpfs tmpfs "$0" && cp -a "$1" "$0/data" && mount -o remount,ro "$0" && shift && exec "$@"`
		cmd := exec.Command("sh", append([]string{"-c", script, disk, filledDir}, args...)...)
		cmd.Env = append(os.Environ(), quickExit)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		return cmd
	}
	if out, err := mounted("true").CombinedOutput(); err != nil {
		t.Skipf("nothing can be mounted here: %v %s", err, out)
	}
	data := filepath.Join(disk, "data")
	out, err := mounted(link, "serve", "--listen", "127.0.0.1:0", "--data", data, "--sumdb", world.GOSUMDB()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "or only serve what is stored there, with --read-only") {
		t.Errorf("serve: %v\n%s", err, out)
	}
	cmd := mounted(link, "serve", "--listen", "127.0.0.1:0", "--data", data, "--read-only", "--sumdb", world.GOSUMDB())
	url := startCommand(t, cmd)
	t.Cleanup(func() { _ = cmd.Wait() })
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	getAll(t, world, url, paths)

	data = filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "root", data)
	if _, err := os.Stat(filepath.Join(data, "meta.db")); err != nil {
		t.Skipf("the disk cannot be seen from here: %v", err)
	}
	for _, test := range []struct{ command, want string }{
		{"ls", "example.com/big3"},
		{"du --json", `{"name":"example.com/big3","files":1,`},
		{"verify", "0 damaged"},
		{"log", "size:  0"},
		{"backup " + filepath.Join(dir, "backup"), "backed up"},
	} {
		if out, err := output(t, program, append(strings.Fields(test.command), "--data", data)...); err != nil || !strings.Contains(out, test.want) {
			t.Errorf("%s: %v, want %q\n%s", test.command, err, test.want, out)
		}
	}
	for _, command := range []string{"purge example.com/big3 --reason test", "compact", "verify --repair"} {
		if out, err := output(t, program, append(strings.Fields(command), "--data", data)...); err == nil || !strings.Contains(out, "read-only file system") {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
}
