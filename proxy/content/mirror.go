package content

import (
	"context"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
)

// mirror is a mirror of a checksum database without the methods that send the name of a
// module: those are for a gate alone.
type mirror interface {
	Name() string
	HasHead() bool
	Latest(ctx context.Context) ([]byte, error)
	Held(ctx context.Context, mod module.Version) (sumdb.Record, error)
	Reply(ctx context.Context, r sumdb.Record) ([]byte, error)
	Tile(ctx context.Context, t tlog.Tile) ([]byte, error)
	HeldTile(ctx context.Context, t tlog.Tile) ([]byte, error)
	Covers(t tlog.Tile) bool
	Again(t tlog.Tile) bool
	Anew()
}
