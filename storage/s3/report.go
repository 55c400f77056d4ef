package s3

import (
	"fmt"
	"slices"
	"strings"
)

// Report is what a probe found out about an object store.
type Report struct {
	Server string // what it calls itself in the header Server, if it does

	// Broken are the promises that it breaks and without which it cannot be used, one sentence each.
	Broken []string

	// Unconditional are those about conditional requests, one sentence each: with any, several replicas
	// would replace objects and lose states of each other. One alone can use the store, see DB.Alone.
	Unconditional []string

	// Weak are promises that it breaks and that only matter at a rare moment, one sentence each.
	Weak []string

	// Left is how many keys the probe could not delete.
	Left int
}

// Err returns an error that says what is broken, nil if several replicas may share the store.
func (r Report) Err() error {
	switch {
	case len(r.Broken) > 0:
		return fmt.Errorf("%s cannot be used: %s", r.server(), strings.Join(slices.Concat(r.Broken, r.Unconditional), "; "))
	case len(r.Unconditional) > 0:
		return fmt.Errorf("%s cannot be shared by several replicas: %s", r.server(), strings.Join(r.Unconditional, "; "))
	}
	return nil
}

// server returns the name of the object store for a sentence.
func (r Report) server() string {
	if r.Server == "" {
		return "the object store"
	}
	return fmt.Sprintf("the object store (%.80q)", r.Server)
}
