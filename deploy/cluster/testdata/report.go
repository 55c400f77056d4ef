package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// report prints what the parts of the test have left, as a table. It fails if replicas have fetched too much twice.
func report(seconds string) error {
	fmt.Printf("%s, %s: OBJECTS=%s SEED=%d COMMANDS=%d JOBS=%d MODULES=%d PRIVATE=%d, %s s\n\n| What | How much |\n|---|---|\n", time.Now().UTC().Format(time.DateOnly),
		map[string]string{"minio": "four nodes of MinIO with two directories each", "versitygw": "one versitygw"}[os.Getenv("OBJECTS")],
		os.Getenv("OBJECTS"), number("SEED"), number("COMMANDS"), number("JOBS"), number("MODULES"), number("PRIVATE"), seconds)
	var tooMany error
	for _, name := range []string{"quiet", "cold", "warm"} {
		var phase finished
		if err := readJSON("phase-"+name, &phase); err != nil {
			return err
		}
		fmt.Printf("| go commands, %s | %d in %d s; %d runs were repeated |\n", map[string]string{
			"quiet": "undisturbed, cold", "cold": "disturbed, cold", "warm": "disturbed, warm"}[name], phase.Commands, phase.Seconds, phase.Failed)
		sent, again := phase.Files+phase.Proofs, phase.FilesAgain+phase.ProofsAgain
		if name == "quiet" && again*50 > sent {
			tooMany = fmt.Errorf("undisturbed, the upstream has sent %d of %d objects more than once, and at most 2 %% may be", again, sent)
		}
		if sent > 0 {
			fmt.Printf("| objects from the upstream, and how many of them more than once | modules: %d, %d; checksum database: %d, %d |\n",
				phase.Files, phase.FilesAgain, phase.Proofs, phase.ProofsAgain)
		}
	}
	disturbed := map[string]int{}
	if err := readJSON("disturbed", &disturbed); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(disturbed)) {
		fmt.Printf("| %s | %d times |\n", name, disturbed[name])
	}
	var end served
	if err := readJSON("settled", &end); err != nil {
		return err
	}
	var log witnessed
	if err := readJSON("witnessed", &log); err != nil {
		return err
	}
	fmt.Printf("| files of clients, served by each server in the end | %d |\n", end.Files)
	fmt.Printf("| heads of the own log that the witness has read, and their sizes | %d, %d |\n", log.Heads, log.Sizes)
	fmt.Printf("| newest heads of clients | %d |\n", log.ClientHeads)
	fmt.Printf("| entries of the own log, and lines of go.sum files that are in it | %d, %d |\n", log.Entries, log.Pins)
	return tooMany
}

func readJSON(name string, value any) error {
	data, err := os.ReadFile(inWork(name + ".json"))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, value)
}
