package main_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// onSmallDisk makes the directory of the server a disk of its own of 64 MiB, and starts the server.
// It returns the path of the disk as the test sees it.
func (p *privateServer) onSmallDisk() (disk string) {
	p.t.Helper()
	dir := p.t.TempDir()
	link := filepath.Join(dir, "assay") // the name selects the program
	disk = filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Symlink(p.program, link); err != nil {
		p.t.Fatal(err)
	}
	inMounts := func(script string, args ...string) *exec.Cmd {
		cmd := exec.Command("sh", append([]string{"-c", `mount -t tmpfs -o size=64m tmpfs "$0" && ` + script, disk}, args...)...)
		cmd.Env = p.env
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		return cmd
	}
	if out, err := inMounts("true").CombinedOutput(); err != nil {
		p.t.Skipf("no small disk can be made here: %v %s", err, out)
	}
	p.args[slices.Index(p.args, "--data")+1] = filepath.Join(disk, "data")
	cmd := inMounts(`exec "$@"`, slices.Concat([]string{link, "serve", "--listen", "127.0.0.1:0", "--access-log=false"}, p.args)...)
	p.url = startCommand(p.t, cmd)
	p.t.Cleanup(func() { _ = cmd.Wait() })
	p.t.Cleanup(func() { _ = cmd.Process.Kill() })
	disk = filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "root", disk)
	p.data = filepath.Join(disk, "data")
	key, err := os.ReadFile(filepath.Join(p.data, "log", "key.pub"))
	if err != nil {
		p.t.Skipf("the disk cannot be seen from here: %v", err)
	}
	p.key = strings.TrimSpace(string(key))
	p.name, _, _ = strings.Cut(p.key, "+")
	return disk
}

// On a full disk new objects are refused with a text that says so, private and public; stored ones
// are served, and when there is room everything is served.
func TestFullDiskPrivate(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	p.args = append(p.args, "--fresh", "1ms")
	disk := p.onSmallDisk()
	client := newLogClient(p)
	stored, wanted := p.versions[:3], p.versions[3:]
	for _, m := range stored {
		for _, kind := range []string{"info", "mod", "zip"} {
			if body, status, err := p.get(m.Path + "/@v/" + m.Version + "." + kind); err != nil || status != http.StatusOK {
				t.Fatalf("%s: %d %s %v", m, status, body, err)
			}
		}
	}
	// For any amount of free space, the disk is full at some point between the repository, the log
	// and the store.
	file := filepath.Join(disk, "other")
	full := 0
	for i, room := range []int64{0, 4, 64, 128, 160, 192, 256, 0} { // KiB
		fillDisk(t, file, room<<10)
		m := wanted[i]
		if i%4 == 3 {
			m = wanted[len(wanted)-1-i/4] // a public module
		}
		for _, path := range []string{m.Path + "/@v/" + m.Version + ".zip", "sumdb/" + p.name + "/lookup/" + m.String()} {
			body, status, err := p.get(path)
			if status == http.StatusServiceUnavailable && strings.Contains(string(body), "disk is full") {
				full++
			} else if err != nil || status != http.StatusOK {
				t.Errorf("%s with room for %d KiB: %d %s %v", path, room, status, body, err)
			}
		}
	}
	if full < 5 {
		t.Errorf("the disk was full %d times", full)
	}
	for path := range p.whole {
		if body, status, err := p.get(path); err != nil || status != http.StatusOK {
			t.Errorf("%s, which is stored, on a full disk: %d %s %v", path, status, body, err)
		}
	}
	if body, status, err := p.get(stored[0].Path + "/@v/list"); err != nil || status != http.StatusOK {
		t.Errorf("a list on a full disk: %d %s %v", status, body, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	client.use(rand.New(rand.NewPCG(1, 2)))
	if client.Broken() != nil {
		t.Error(client.Broken())
	}
	if len(client.Seen) == 0 {
		t.Error("the client has verified nothing")
	}
	p.checkLog(client.Seen)
}

// fillDisk writes a file that takes all free space but a number of bytes.
func fillDisk(t *testing.T, name string, but int64) {
	t.Helper()
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	info, err := file.Stat()
	if err == nil {
		err = file.Truncate(info.Size() - but)
	}
	if err != nil {
		t.Fatal(err)
	}
}
