package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/assay-proxy/assay/sumdb"
)

// Thaw is an order to clear the evidence that a checksum database has forked, and its result.
type Thaw struct {
	Database string   `json:"database"` // its name
	Reason   string   `json:"reason"`
	Files    []string `json:"files"` // paths of the evidence, before they got another name
}

// thawFunc clears the evidence of forks of a database, and returns the paths of its files.
type thawFunc = func(ctx context.Context, database, reason string) ([]string, error)

// thawStored returns a thawFunc for a store and a directory that no mirror in this process uses.
func thawStored(c sumdb.Config) thawFunc {
	return func(ctx context.Context, database, reason string) ([]string, error) {
		return sumdb.Thaw(ctx, c, database, reason)
	}
}

// do executes the order.
func (t Thaw) do(ctx context.Context, thaw thawFunc) (Thaw, error) {
	switch {
	case t.Reason == "":
		return t, errors.New("a thaw needs a reason")
	case len(t.Reason) > maxReason:
		return t, fmt.Errorf("the reason has %d bytes, of which %d are kept; say it in fewer words", len(t.Reason), maxReason)
	}
	var err error
	t.Files, err = thaw(ctx, t.Database, t.Reason)
	return t, err
}
