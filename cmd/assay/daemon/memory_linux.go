package daemon

import (
	"bufio"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// containerMemory returns how many bytes the cgroup of this process may use, 0 if there is no
// limit. root is "/", except in tests.
func containerMemory(root string) int64 {
	file, err := os.Open(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	defer file.Close()
	least := int64(0)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), ":", 3) // number, controllers, path
		if len(fields) != 3 {
			continue
		}
		mounts, names := []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"}, []string{"memory.max", "memory.high"}
		if fields[1] != "" { // version 1
			mounts, names = []string{"sys/fs/cgroup/memory"}, []string{"memory.limit_in_bytes"}
			if !strings.Contains(","+fields[1]+",", ",memory,") {
				continue
			}
		}
		for _, mount := range mounts {
			for _, name := range names {
				least = lesser(least, leastAbove(filepath.Join(root, mount), fields[2], name))
			}
		}
	}
	return least
}

// leastAbove returns the smallest value of a file in the cgroup at dir and in its ancestors. In a
// container, dir may be a path outside of it, which does not exist.
func leastAbove(mount, dir, name string) (least int64) {
	for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(mount, dir, name))
		if err == nil {
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // or max
			if err == nil && n < unlimited {
				least = lesser(least, n)
			}
		}
		if dir == "/" {
			return least
		}
	}
}

// unlimited, or more, is the value of version 1 for no limit: the largest number of pages.
const unlimited = 1 << 60

// lesser returns the smaller of two limits; 0 means no limit.
func lesser(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// anonymousMemory returns the resident memory of this process without the pages of files.
func anonymousMemory() (bytes int64, ok bool) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "RssAnon:"); found {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n << 10, err == nil
		}
	}
	return 0, false
}
