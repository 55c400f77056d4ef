// Command cluster is what deploy/cluster/run needs beside the program and an object store:
//
//	cluster upstream                    serves the modules of the test and their checksum database on port 8080
//	cluster repositories DIRECTORY      makes the private modules, as repositories for a git server
//	cluster bucket NAME ENDPOINT...     makes a bucket, as soon as one of the endpoints answers
//	cluster database                    prints the key of the checksum database
//	cluster clients PHASE               runs go commands, and checks all they have got
//	cluster disturb REPLICAS NODES      kills, stops and cuts off containers until it is interrupted
//	cluster witness KEY URL...          follows the heads of the own log at each server until it is interrupted
//	cluster settled URL...              checks that each server has all that clients have got
//	cluster report SECONDS              prints the result of a test that took so long
//
// The commands of one test share the directory in WORK, in which one leaves what another one reads, and the settings in
// SEED, MODULES, PRIVATE, COMMANDS and JOBS, from which each of them makes the same modules.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
)

func main() {
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal("FAILED: ", err)
	}
}

func run(ctx context.Context, args []string) error {
	command, args := args[0], args[1:]
	switch {
	case command == "upstream":
		return upstream(newModules())
	case command == "database":
		fmt.Println(newModules().world.Log.Key())
		return nil
	case command == "repositories" && len(args) == 1:
		return newModules().repositories(args[0])
	case command == "bucket" && len(args) > 1:
		return makeBucket(ctx, args[0], args[1:])
	case command == "clients" && len(args) == 1:
		return clients(ctx, newModules(), args[0])
	case command == "disturb" && len(args) == 2:
		return disturb(ctx, args[0], args[1])
	case command == "witness" && len(args) > 1:
		return witness(ctx, args[0], args[1:])
	case command == "settled" && len(args) > 0:
		return settled(ctx, newModules(), args)
	case command == "report" && len(args) == 1:
		return report(args[0])
	}
	return fmt.Errorf("not a command: %q", os.Args[1:])
}

// number is a setting of the test.
func number(name string) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		log.Fatalf("%s must be a number: %v", name, err)
	}
	return n
}

// inWork is a file of the directory that the commands share.
func inWork(elements ...string) string {
	return filepath.Join(append([]string{os.Getenv("WORK")}, elements...)...)
}
