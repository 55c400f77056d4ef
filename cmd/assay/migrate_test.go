package main

import (
	"bufio"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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
			kills := 0
			for kills < 20 && d.killInMove(args, time.Duration(kills)*time.Millisecond) {
				kills++
			}
			if kills == 0 {
				t.Error("it was not killed while it moved keys")
			}
			t.Logf("killed %d times", kills)
			d.compare(args)
			d.run("verify")
		})
	}
}

// killInMove starts the program, and kills it some time after it has begun to move keys. It returns
// false if all keys are moved.
func (d *oldData) killInMove(args []string, after time.Duration) bool {
	d.t.Helper()
	cmd := assay(d.program, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	log, err := cmd.StderrPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	moving := false
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if moving = strings.Contains(lines.Text(), "moving the keys"); moving || strings.Contains(lines.Text(), "assay starts") {
			break
		}
	}
	if moving {
		time.Sleep(after) // somewhere in the middle
	}
	kill(d.t, cmd)
	return moving
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
