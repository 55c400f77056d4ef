package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// inOwnMounts runs a helper as root of a mount namespace of its own, where it can mount a small
// disk. If that is not allowed the test is skipped.
func inOwnMounts(t *testing.T, name string) {
	t.Helper()
	cmd := helperCommand(t, name, t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENOSPC), strings.Contains(output.String(), "cannot mount"):
		t.Skipf("no small disk can be made here: %v %s", err, output.String())
	case err != nil:
		t.Errorf("%v\n%s", err, output.String())
	}
}

// smallDisk mounts a disk of so many bytes on dir.
func smallDisk(dir string, size int) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		return fmt.Errorf("cannot mount: %w", err)
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	inOwnMounts(t, "full")
}
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	inOwnMounts(t, "readonly")
}

// fullDisk fills a disk that has a store and another file.
func fullDisk(dir string) error {
	if err := smallDisk(dir, 64<<20); err != nil {
		return err
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 20<<20), 0o600); err != nil {
		return err
	}
	db, err := bolt.Open(filepath.Join(dir, "store"), nil)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx := context.Background()
	create := func(i, size int) error {
		content := storagetest.Content(uint64(i), size)
		return db.Create(ctx, storage.Info{Key: fmt.Sprint(i), Size: int64(size)}, bytes.NewReader(content))
	}
	check := func(n int) error {
		for i := range n {
			o, err := db.Open(ctx, fmt.Sprint(i))
			if err != nil {
				return err
			}
			got, err := io.ReadAll(o)
			o.Close()
			if err != nil || !bytes.Equal(got, storagetest.Content(uint64(i), len(got))) {
				return fmt.Errorf("object %d has other bytes, or %v", i, err)
			}
		}
		if _, err := db.Stat(ctx, fmt.Sprint(n)); err == nil {
			return fmt.Errorf("object %d is there though its creation failed", n)
		}
		return nil
	}

	if err := fullDuringDraft(db); err != nil {
		return err
	}
	stored := 0
	for ; stored < 1000; stored++ {
		if err = create(stored, 1<<20); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") || stored == 0 {
		return fmt.Errorf("after %d objects: %v, want ENOSPC with what to do", stored, err)
	}
	if !errors.Is(err, storage.ErrUnwritable) {
		return fmt.Errorf("%v: want storage.ErrUnwritable", err)
	}
	if strings.Count(err.Error(), ".db") != 1 {
		return fmt.Errorf("%v: want the file named once", err)
	}
	if err := check(stored); err != nil {
		return fmt.Errorf("on a full disk: %w", err)
	}
	if err := os.Remove(other); err != nil {
		return err
	}
	for i := stored; i < stored+5; i++ {
		if err := create(i, 1<<20); err != nil {
			return fmt.Errorf("after there was room: %w", err)
		}
	}
	if err := check(stored + 5); err != nil {
		return err
	}
	v, err := db.Verify(ctx, storage.VerifyOptions{Damage: func(d storage.Damage) { fmt.Println(d.Key, d.Err) }})
	if err != nil || v.Damaged > 0 {
		return fmt.Errorf("%+v, %v", v, err)
	}
	return openFull(dir)
}

// fullDuringDraft fills the disk during a draft. Write says so, what was written can be read, and
// the space is used again by the next one.
func fullDuringDraft(db *bolt.DB) error {
	ctx := context.Background()
	content := storagetest.Content(77, 30<<20)
	d, err := db.Draft(ctx, -1)
	if err != nil {
		return err
	}
	n := 0
	for err == nil && n < 100<<20 {
		var m int
		m, err = d.Write(content[n%len(content):][:1<<20])
		n += m
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		return fmt.Errorf("after %d bytes of a draft: %v, want ENOSPC with what to do", n, err)
	}
	got := make([]byte, 1<<20)
	if _, err := d.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, content[1<<20:2<<20]) {
		return fmt.Errorf("reading what was written before the disk was full: %v", err)
	}
	if err := d.Commit(ctx, storage.Info{Key: "draft", Size: int64(n)}); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("commit: %v, want ENOSPC", err)
	}
	if err := d.Close(); err != nil {
		return err
	}
	for s := (storage.Stats{Orphans: 1}); s.Orphans > 0; {
		if s, err = db.Stats(ctx); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	// The rest of the disk is still full, and the space of the draft is used again.
	info := storage.Info{Key: "instead", Size: int64(len(content))}
	if err := draftOf(ctx, db, info, bytes.NewReader(content)); err != nil {
		return fmt.Errorf("in the space of the draft: %w", err)
	}
	return db.Delete(ctx, "instead")
}

// openFull opens an empty store on a disk without free space.
func openFull(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 64<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk is not full: %v", err)
	}
	db, err := bolt.Open(filepath.Join(dir, "second"), nil)
	if err == nil {
		db.Close()
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		return fmt.Errorf("open on a full disk: %v, want ENOSPC with what to do", err)
	}
	return nil
}

// readOnlyDisk opens a store on a read-only disk.
func readOnlyDisk(dir string) error {
	if err := smallDisk(dir, 64<<20); err != nil {
		return err
	}
	store := filepath.Join(dir, "store")
	db, err := bolt.Open(store, nil)
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("cannot mount: %w", err)
	}
	for _, path := range []string{store, filepath.Join(dir, "none yet")} {
		db, err := bolt.Open(path, nil)
		if err == nil {
			db.Close()
		}
		if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "writable") || !strings.Contains(err.Error(), path) {
			return fmt.Errorf("open %s: %v, want EROFS with what to do", path, err)
		}
	}
	db, err = bolt.Open(store, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	v, err := db.Verify(context.Background(), storage.VerifyOptions{})
	if err != nil || v.Damaged > 0 {
		return fmt.Errorf("%+v, %v", v, err)
	}
	return db.Close()
}
