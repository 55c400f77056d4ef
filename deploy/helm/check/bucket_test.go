package check_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

// The key of the own log is a file from the Secret, and is in no ConfigMap.
func TestLogKey(t *testing.T) {
	forRelease(t, "log", func(t *testing.T, r release) {
		pod := server(t, r).Template.Spec
		if got := variable(pod.Containers[0], "ASSAY_LOG_KEY"); got != "/etc/assay/secrets/log_key" {
			t.Errorf("the key is in %q", got)
		}
		found := false
		for _, v := range pod.Volumes {
			if v.Projected == nil {
				continue
			}
			for _, s := range v.Projected.Sources {
				found = found || s.Secret != nil && s.Secret.Name == "assay-log" && s.Secret.Items[0].Key == "key" && s.Secret.Items[0].Path == "log_key"
			}
		}
		if !found {
			t.Error("the Secret with the key is not mounted")
		}
		for _, c := range all[*core.ConfigMap](r) {
			if strings.Contains(c.Data["assay.toml"], "log_key") {
				t.Errorf("%s names the key", c.Name)
			}
		}
	})
}

// The volume of servers that share a bucket has room for the disk limit, a zip that arrives, and the file system.
func TestTierLimit(t *testing.T) {
	limit := regexp.MustCompile(`(?m)^disk_limit = "(\d+)MiB"$`)
	for name, size := range map[string]int64{"replicas": 20 << 10, "aws": 100 << 10} { // in MiB
		forRelease(t, name, func(t *testing.T, r release) {
			for _, c := range all[*core.ConfigMap](r) {
				found := limit.FindStringSubmatch(c.Data["assay.toml"])
				if found == nil {
					t.Fatalf("%s has no disk limit", c.Name)
				}
				if n, err := strconv.ParseInt(found[1], 10, 64); err != nil || n+512 > size*9/10 || n < size*8/10 {
					t.Errorf("the limit is %d MiB in a volume of %d, %v", n, size, err)
				}
			}
		})
	}
}
