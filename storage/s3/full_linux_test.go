package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// fullDir names, to the helper process, the directory for its small disk.
const fullDir = "ASSAY_TEST_FULL_DIR"

// A full disk for drafts is an error that says so, so that clients are told the reason.
func TestFullSpool(t *testing.T) {
	if dir := os.Getenv(fullDir); dir != "" {
		fullSpool(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullSpool$")
	cmd.Env = append(os.Environ(), fullDir+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	output, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENOSPC), strings.Contains(string(output), "cannot mount"):
		t.Skipf("no small disk can be made here: %v %s", err, output)
	case err != nil:
		t.Errorf("%v\n%s", err, output)
	}
}

// fullSpool writes a draft that does not fit on its disk. It runs in a mount namespace of its own.
func fullSpool(t *testing.T, dir string) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", 512<<10)); err != nil {
		t.Fatalf("cannot mount: %v", err)
	}
	server := s3test.Start(t)
	db := open(t, s3.Options{Bucket: "bucket", Endpoint: server.URL, PathStyle: true, Spool: dir})
	const size = 2 << 20
	err := db.Create(t.Context(), storage.Info{Key: "key", Size: size}, bytes.NewReader(make([]byte, size)))
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, storage.ErrNoLarge) {
		t.Errorf("Create = %v, want ENOSPC and ErrNoLarge", err)
	}
}
