package main

import (
	"context"
	"fmt"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/storage"
)

// What the tests of the program use of it.
var (
	Run        = run
	NewCommand = newCommand
	StopOn     = stopOn
)

// CopyStore copies the store of a client into another one, and returns what it has done as text.
func CopyStore(ctx context.Context, from *admin.Client, to storage.Store) (string, error) {
	done, err := (&storeCopy{from: from, to: to, progress: func(copied) {}}).run(ctx)
	return fmt.Sprintf("%d objects, %d held, %d states, damaged %q", done.Objects, done.Held, done.States, done.Damaged), err
}
