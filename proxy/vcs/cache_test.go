package vcs_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// process is a process that a Source has started.
type process struct {
	pid, group int
	args       string // joined by spaces
}

// running returns the processes that work for the Source with the directory dir,
// whatever they have become.
func running(t *testing.T, dir string) (all []process) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		environment, err := os.ReadFile(filepath.Join(name, "environ"))
		if err != nil || !strings.Contains(string(environment), dir) {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(name, "cmdline"))
		stat, _ := os.ReadFile(filepath.Join(name, "stat"))
		p := process{args: strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))}
		p.pid, _ = strconv.Atoi(filepath.Base(name))
		// pid (name) state parent group
		if fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); len(fields) > 2 {
			p.group, _ = strconv.Atoi(fields[2])
		}
		all = append(all, p)
	}
	return all
}
