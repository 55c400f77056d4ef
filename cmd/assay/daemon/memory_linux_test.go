package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

// The limit of a container is found in both versions of cgroups, at any level of the tree, and also
// if the path of the cgroup is that of the host.
func TestContainerMemory(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, test := range map[string]struct {
		cgroup string
		files  map[string]string
		want   int64
	}{
		"no cgroups":        {"", nil, 0},
		"no limit":          {"0::/\n", map[string]string{"memory.max": "max\n"}, 0},
		"2, in a container": {"0::/\n", map[string]string{"memory.max": "268435456\n", "memory.high": "max\n"}, 256 * mib},
		"2, a unit": {"0::/system.slice/assay.service\n", map[string]string{
			"system.slice/assay.service/memory.max": "536870912\n", "system.slice/assay.service/memory.high": "402653184\n"}, 384 * mib},
		"2, the slice has less": {"0::/a.slice/b.service\n", map[string]string{
			"a.slice/memory.max": "134217728\n", "a.slice/b.service/memory.max": "536870912\n"}, 128 * mib},
		"2, a path of the host": {"0::/docker/abc\n", map[string]string{"memory.max": "268435456\n"}, 256 * mib},
		"1": {"12:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n", map[string]string{
			"memory/docker/abc/memory.limit_in_bytes": "268435456\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}, 256 * mib},
		"1, a path of the host": {"5:memory:/docker/abc\n", map[string]string{"memory/memory.limit_in_bytes": "268435456\n"}, 256 * mib},
		"1, no limit":           {"5:memory:/\n", map[string]string{"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"both":                  {"5:memory:/x\n0::/x\n", map[string]string{"memory/x/memory.limit_in_bytes": "268435456\n", "unified/x/memory.max": "max\n"}, 256 * mib},
	} {
		root := t.TempDir()
		write := func(name, text string) {
			name = filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if test.cgroup != "" {
			write("proc/self/cgroup", test.cgroup)
		}
		for name, text := range test.files {
			write("sys/fs/cgroup/"+name, text)
		}
		if got := containerMemory(root); got != test.want {
			t.Errorf("%s: %d MiB, want %d", name, got/mib, test.want/mib)
		}
	}
}

// The anonymous memory is that of this process.
func TestAnonymousMemory(t *testing.T) {
	before, ok := anonymousMemory()
	if !ok || before <= 0 {
		t.Fatalf("%d, %v", before, ok)
	}
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = 1
	}
	if after, _ := anonymousMemory(); after < before+32<<20 {
		t.Errorf("%d MB after 64 MB more, %d before", after>>20, before>>20)
	}
	if data[len(data)-1] != 1 {
		t.Error("never")
	}
}
