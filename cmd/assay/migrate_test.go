package main_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// A server that is killed again and again while it moves the keys of an earlier version gives the
// same answers as that version in the end.
func TestMoveKilled(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"public", "unproved", "private"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := openOldData(t, filepath.Join(dataDirs, "2026-11-"+kind+".tar.gz"))
			args := append(strings.Fields(d.read("args")), "--upstream", "off", "--data", filepath.Join(d.dir, "data"))
			d.fill(200_000)
			kills := 0
			for kills < 20 && d.killInMove(args, time.Duration(kills)*10*time.Millisecond) {
				kills++
			}
			if kills < 3 {
				t.Errorf("it was killed %d times while it moved keys, want more", kills)
			}
			t.Logf("killed %d times", kills)
			d.compare(args)
			d.run("verify")
		})
	}
}

// fill adds so many small objects with keys of the earlier version, so that it takes a while
// to move all.
func (d *oldData) fill(n int) {
	d.t.Helper()
	db, err := bolt.Open(filepath.Join(d.dir, "data"), &bolt.Options{Outdated: func(*bolt.Outdated) error { return nil }})
	if err != nil {
		d.t.Fatal(err)
	}
	defer db.Close()
	var batch storage.Batch
	for i := range n {
		content := fmt.Appendf(nil, `{"Version":"v1.%d.0","Time":"2020-01-01T00:00:00Z"}`, i)
		key := fmt.Sprintf("example.com/filler/@v/v1.%d.0.info", i)
		batch.Create = append(batch.Create, storage.Small{Info: storage.Info{Key: key}, Content: content})
		if len(batch.Create) < 10_000 && i < n-1 {
			continue
		}
		if err := db.Apply(d.t.Context(), batch); err != nil {
			d.t.Fatal(err)
		}
		batch.Create = nil
	}
}

// startMove starts the program, and waits until it moves keys. It reports false if there is
// nothing to move any more. The rest of the log is to be read.
func (d *oldData) startMove(args []string) (cmd *exec.Cmd, log io.Reader, moving bool) {
	d.t.Helper()
	cmd = assay(d.program, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	log, err := cmd.StderrPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if moving = strings.Contains(lines.Text(), "moving the keys"); moving || strings.Contains(lines.Text(), "assay starts") {
			break
		}
	}
	return cmd, log, moving
}

// killInMove kills the program so long after it has begun to move keys. It reports false if
// there is nothing to move any more.
func (d *oldData) killInMove(args []string, after time.Duration) bool {
	d.t.Helper()
	cmd, _, moving := d.startMove(args)
	if moving {
		time.Sleep(after) // somewhere in the middle
	}
	kill(d.t, cmd)
	return moving
}

// A server that is stopped while it moves keys ends well, and the next one goes on.
func TestMoveStopped(t *testing.T) {
	t.Parallel()
	d := openOldData(t, filepath.Join(dataDirs, "2026-11-unproved.tar.gz"))
	d.fill(200_000)
	args := append(strings.Fields(d.read("args")), "--upstream", "off", "--data", filepath.Join(d.dir, "data"))
	cmd, log, moving := d.startMove(args)
	if !moving {
		t.Error("no keys are moved")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(log)
	if err := errors.Join(err, cmd.Wait()); err != nil || !strings.Contains(string(rest), "the next start continues") {
		t.Errorf("%v\n%s", err, rest)
	}
	d.compare(args)
}

// With no-migrate the program ends, says what to do, and changes nothing. Commands that do not need
// the keys work on the directory as it is.
func TestNoMigrate(t *testing.T) {
	t.Parallel()
	d := openOldData(t, filepath.Join(dataDirs, "2026-11-private.tar.gz"))
	data := filepath.Join(d.dir, "data")
	before := d.read("data/meta.db")
	args := slices.Concat([]string{"serve", "--listen", "127.0.0.1:0", "--no-migrate", "--data", data}, strings.Fields(d.read("args")), []string{"--upstream", "off"})
	out, err := assay(d.program, args...).CombinedOutput()
	if err == nil {
		t.Error("it has ended well")
	}
	for _, text := range []string{"earlier version", "no-migrate", "backup"} {
		if !strings.Contains(string(out), text) {
			t.Errorf("no %q in:\n%s", text, out)
		}
	}
	if d.read("data/meta.db") != before {
		t.Error("meta.db has changed")
	}
	d.run("verify")
	d.run("backup", filepath.Join(d.dir, "backup"))
	restored := filepath.Join(d.dir, "restored")
	if out, err := assay(d.program, "restore", filepath.Join(d.dir, "backup"), "--data", restored).CombinedOutput(); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	if out, err := assay(d.program, "ls", "--data", data).CombinedOutput(); err == nil || !strings.Contains(string(out), "start assay serve once") {
		t.Errorf("ls: %v\n%s", err, out)
	}
	d.run("log", "adopt", "--no-client-has-seen-more") // the directory is a copy
	d.run("log", "check")
	for _, dir := range []string{data, restored} {
		d.compare(append(strings.Fields(d.read("args")), "--upstream", "off", "--data", dir))
	}
}
