package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/cmd/assay/config"
)

var (
	imageUser   = regexp.MustCompile(`(?m)^USER (\d+):`)
	imageEntry  = regexp.MustCompile(`(?m)^ENTRYPOINT (\["[^"]+")\]$`)
	imageHealth = regexp.MustCompile(`(?m)^HEALTHCHECK .* CMD (\["[^"]+"), "health"\]$`)
)

// limits are the memory limits of the unit, of the compose file, and of the container in Kubernetes.
var limits = map[string]*regexp.Regexp{
	"../../deploy/systemd/assay.service": regexp.MustCompile(`(?m)^MemoryMax=(\d+)G$`),
	"../../docker-compose.yml":           regexp.MustCompile(`(?m)^    mem_limit: (\d+)m$`),

	"../../deploy/helm/assay/values.yaml":   regexp.MustCompile(`(?m)^resources:\n(?:  .*\n)*?  limits:\n    memory: (\d+)Mi$`),
	"../../deploy/kubernetes/assay.yaml":    regexp.MustCompile(`(?m)^ +limits:\n +memory: (\d+)Mi$`),
	"../../deploy/kubernetes/replicas.yaml": regexp.MustCompile(`(?m)^ +limits:\n +memory: (\d+)Mi$`),
}

// The limits of all forms are enough for the default budget, 32 MiB besides
// and a quarter of both, with a tenth to spare.
func TestMemoryLimits(t *testing.T) {
	t.Parallel()
	budget := 0
	for _, s := range config.Settings() {
		if s.Name == "memory-budget" {
			budget, _ = strconv.Atoi(s.Default)
		}
	}
	for name, limit := range limits {
		found := limit.FindStringSubmatch(assaytest.ReadDoc(t, name))
		if found == nil {
			t.Errorf("%s has no limit", name)
			continue
		}
		mebibytes, _ := strconv.Atoi(found[1])
		if strings.HasSuffix(name, ".service") {
			mebibytes <<= 10
		}
		if budget == 0 || mebibytes*9/10 < (budget+32)*5/4 {
			t.Errorf("%s gives %d MiB for a budget of %d", name, mebibytes, budget)
		}
	}
}

// The health check of each image runs the image's own program, and the compose file uses the
// image's check: the program has a different name in each. The image with git has ssh, which does
// not run for a user without a name.
func TestImages(t *testing.T) {
	t.Parallel()
	stages := strings.Split(assaytest.ReadDoc(t, "../../deploy/Dockerfile"), "\nFROM ")
	images := 0
	for _, stage := range stages {
		entry := imageEntry.FindStringSubmatch(stage)
		if entry == nil {
			continue
		}
		images++
		if health := imageHealth.FindStringSubmatch(stage); health == nil || health[1] != entry[1] {
			t.Errorf("%q asks %q for its health", entry[1], health)
		}
		user := imageUser.FindStringSubmatch(stage)
		if user == nil || !strings.HasPrefix(stage, "scratch") && !strings.Contains(stage, ":x:"+user[1]+":") {
			t.Errorf("the user %q of\n%s\nhas no name", user, stage)
		}
	}
	env := regexp.MustCompile(`(?m)^ENV (.*)$`).FindStringSubmatch(stages[len(stages)-1])
	for _, variable := range strings.Fields(env[1]) {
		if !strings.Contains(assaytest.ReadDoc(t, "../../deploy/release/image"), strconv.Quote(variable)) {
			t.Errorf("the image of a release lacks %s", variable)
		}
	}
	if images != 2 {
		t.Errorf("there are %d images", images)
	}
	if strings.Contains(assaytest.ReadDoc(t, "../../docker-compose.yml"), `"/assay"`) {
		t.Error("the compose file names the program by its path in one of the images")
	}
}

// The profile monitoring has no account with a password that is in Grafana's manual.
func TestGrafanaAccount(t *testing.T) {
	t.Parallel()
	_, service, _ := strings.Cut(assaytest.ReadDoc(t, "../../docker-compose.yml"), "\n  grafana:\n")
	service, _, _ = strings.Cut(service, "\n\n")
	if !strings.Contains(service, `GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION: "true"`) {
		t.Errorf("Grafana makes the account admin with the password admin:\n%s", service)
	}
	for _, role := range []string{"Admin", "Editor"} {
		if strings.Contains(service, role) {
			t.Errorf("clients without an account are %s", role)
		}
	}
}

// The context of the build has each directory of packages, and nothing that .dockerignore does not name: no data
// directory, no key, no file of an editor.
func TestBuildContext(t *testing.T) {
	t.Parallel()
	ignore := strings.Split(assaytest.ReadDoc(t, "../../.dockerignore"), "\n")
	if !slices.Contains(ignore, "*") {
		t.Error(".dockerignore lets everything pass that it does not name")
	}
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		files := 0
		filepath.WalkDir(filepath.Join("../..", e.Name()), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "testdata" { // which .dockerignore leaves out everywhere
				return fs.SkipDir
			}
			if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				files++
			}
			return err
		})
		if named := slices.Contains(ignore, "!"+e.Name()); e.IsDir() && named != (files > 0) {
			t.Errorf("%s has %d files of Go; whether .dockerignore names it is %t", e.Name(), files, named)
		}
	}
}
