package main

import (
	"regexp"
	"strings"
	"testing"
)

var (
	imageUser   = regexp.MustCompile(`(?m)^USER (\d+):`)
	imageEntry  = regexp.MustCompile(`(?m)^ENTRYPOINT (\["[^"]+")\]$`)
	imageHealth = regexp.MustCompile(`(?m)^HEALTHCHECK .* CMD (\["[^"]+"), "health"\]$`)
)

// Each image asks the program that it runs for its health, and the compose file
// leaves that to the image: the program has another name in each. The image with
// git has ssh, which does not run for a user without a name.
func TestImages(t *testing.T) {
	stages := strings.Split(readDoc(t, "../../deploy/Dockerfile"), "\nFROM ")
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
	if images != 2 {
		t.Errorf("there are %d images", images)
	}
	if strings.Contains(readDoc(t, "../../docker-compose.yml"), `"/assay"`) {
		t.Error("the compose file names the program by its path in one of the images")
	}
}
