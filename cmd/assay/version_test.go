package main

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuild(t *testing.T) {
	t.Parallel()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	checkout := func(modified string) []debug.BuildSetting {
		return []debug.BuildSetting{
			{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: commit},
			{Key: "vcs.time", Value: "2026-11-30T10:00:00Z"}, {Key: "vcs.modified", Value: modified},
		}
	}
	for name, test := range map[string]struct {
		info debug.BuildInfo
		want build
	}{
		"a tag": {
			debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: checkout("false")},
			build{Version: "v1.2.3", Commit: commit, Time: "2026-11-30T10:00:00Z"},
		},
		"a changed checkout": {
			debug.BuildInfo{Main: debug.Module{Version: "v1.2.3+dirty"}, Settings: checkout("true")},
			build{Version: "v1.2.3+dirty", Commit: commit, Time: "2026-11-30T10:00:00Z", Dirty: true},
		},
		"a checkout of which Go made no version": {
			debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: checkout("true")},
			build{Version: "devel-0123456789ab+dirty", Commit: commit, Time: "2026-11-30T10:00:00Z", Dirty: true},
		},
		"go install": {debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, build{Version: "v1.2.3"}},
		"nothing":    {debug.BuildInfo{}, build{Version: "devel"}},
	} {
		test.want.Go, test.want.OS, test.want.Arch = runtime.Version(), runtime.GOOS, runtime.GOARCH
		if diff := cmp.Diff(test.want, newBuild(&test.info)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
