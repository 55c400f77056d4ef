package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// tierDir is where a server of a bucket has its copies, in its data directory.
const tierDir = "tier"

// HasCopies reports whether a data directory has copies of a store in a bucket.
func HasCopies(data string) bool { return exists(filepath.Join(data, tierDir)) }

// checkPlace refuses a data directory of a server of a bucket if the setting store is forgotten: the server would begin
// another store, and another own log. It warns of a store that the setting store hides.
func checkPlace(c config.Config, log *slog.Logger) error {
	own := OwnLogConfig(c).Dir
	if c.Store != "" {
		if exists(filepath.Join(c.Data, "meta.db")) {
			log.Warn("the data directory has a store of its own, which is not used: bring it to the bucket with assay store copy, and its own "+
				"log with assay log move, or move meta.db and blobs.db away", "data", c.Data)
		}
		return nil
	}
	seen, err := filepath.Glob(filepath.Join(own, "bucket", "*"))
	if err != nil {
		return err
	}
	replica := len(seen) > 0 && !exists(filepath.Join(own, "entries")) // both: the log was moved between them
	if replica || HasCopies(c.Data) {
		return fmt.Errorf("%[1]s is the data directory of a server of a bucket, and without that another store and another own log would "+
			"begin here: name the bucket with --store, or another directory with --data; to leave the bucket, see docs/replicas.md, "+
			"and remove %[1]s/tier", c.Data)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
