package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

func newVerifyCommand() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check all stored data and report damage",
		Long: `Verify reads and checks every stored byte, and prints a line for each damaged object,
including zips with bytes that are not covered by their hash. It exits with status 1 if
damage is found or remains.

With --repair it drops damaged objects, so that they are fetched and verified again when
a client requests them. The content of an .info cannot be verified: with --repair each
one is requested again when it is used, and replaced if the upstream's answer differs.

The server must be stopped, unless the store is in a bucket. It repairs damage that it finds in the same way while it
runs. To verify what a running server has stored, verify a backup of it, which is a data
directory: assay backup DIR, then assay verify --data DIR.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			out, errOut := cmd.OutOrStdout(), cmd.ErrOrStderr()
			if c.Store == "" {
				return verify(cmd.Context(), c.Data, repair, out, errOut)
			}
			db, err := existingBucket(cmd.Context(), c)
			if err != nil {
				return err
			}
			defer db.Close()
			if repair {
				if err := daemon.CheckChange(cmd.Context(), db); err != nil {
					return err
				}
			}
			return verifyStore(cmd.Context(), db, repair, out, errOut)
		},
	}
	config.AddFlags(cmd.Flags(), "data", "store", "ca-file")
	cmd.Flags().BoolVar(&repair, "repair", false, "Drop damaged objects.")
	return cmd
}

// anyLayout opens a store of an earlier version as it is, for commands that do not depend on the
// keys of objects.
func anyLayout(*bolt.Outdated) error { return nil }

// progressEvery is how often a long command prints its progress.
const progressEvery = 5 * time.Second

// verify checks the store in the directory data. Damage that remains is an error.
func verify(ctx context.Context, data string, repair bool, out, errOut io.Writer) error {
	db, err := bolt.Open(data, &bolt.Options{Existing: true, ReadOnly: !repair, Outdated: anyLayout})
	if errors.Is(err, fs.ErrNotExist) {
		return noStore(data)
	}
	if errors.Is(err, storage.ErrInUse) && !repair {
		return fmt.Errorf("%w, or verify a backup of it: assay backup DIR, then assay verify --data DIR", err)
	}
	if err != nil {
		return err
	}
	return errors.Join(verifyStore(ctx, db, repair, out, errOut), db.Close())
}

// checkedStore is a store that can check itself.
type checkedStore interface {
	storage.Store
	storage.Verifier
}

// verifyStore checks all that is in a store.
func verifyStore(ctx context.Context, db checkedStore, repair bool, out, errOut io.Writer) error {
	told := time.Now()
	v, err := db.Verify(ctx, storage.VerifyOptions{
		Repair: repair,
		Damage: func(d storage.Damage) {
			outcome := "damaged"
			if d.Repaired {
				outcome = "repaired"
			}
			if d.Key == "" {
				fmt.Fprintf(out, "%s: %v\n", outcome, d.Err)
			} else {
				fmt.Fprintf(out, "%s: %s: %v\n", outcome, d.Key, d.Err)
			}
		},
		Progress: func(v storage.Verified) {
			if time.Since(told) >= progressEvery {
				told = time.Now()
				fmt.Fprintf(errOut, "%d objects, %.1f MB so far, %d damaged\n", v.Objects, megabytes(v), v.Damaged)
			}
		},
	})
	if err != nil {
		return err
	}
	if repair { // nothing proves an .info file, so each is fetched again
		if err := content.RecheckInfos(ctx, db); err != nil {
			return err
		}
	}
	if err := verifyShapes(ctx, db, repair, &v, out); err != nil {
		return err
	}
	fmt.Fprintf(out, "verified %d objects (%.1f MB) and %d states: %d damaged, %d repaired\n",
		v.Objects, megabytes(v), v.States, v.Damaged, v.Repaired)
	switch {
	case v.Damaged == v.Repaired:
		return nil
	case !repair:
		return errors.New("the store is damaged; assay verify --repair drops damaged objects, so that they are fetched again")
	}
	return errors.New("not all damage could be repaired; restore meta.db and blobs.db from a backup, or move both away and start with an empty store; leave log/ and tokens unchanged")
}

// noStore returns the error that there is no store in a data directory.
func noStore(data string) error {
	where := data
	if dir, err := filepath.Abs(data); err == nil && dir != data {
		where += " (" + dir + ")"
	}
	if daemon.HasCopies(data) {
		return fmt.Errorf("%s has only copies of the store in a bucket: name the bucket with --store; docs/replicas.md says which commands "+
			"there are for it, and how it is backed up", where)
	}
	return fmt.Errorf("there is no store in %s; name its directory with --data", where)
}

// verifyShapes finds stored zips with bytes that no hash covers, deletes them with repair, and
// counts them in v.
func verifyShapes(ctx context.Context, store storage.Store, repair bool, v *storage.Verified, out io.Writer) error {
	for key, err := range store.Keys(ctx, "") {
		if err != nil {
			return err
		}
		if !strings.HasSuffix(key, ".zip") {
			continue
		}
		wrong := checkShape(ctx, store, key)
		if !errors.Is(wrong, modzip.ErrShape) {
			continue // all other errors have been reported
		}
		v.Damaged++
		outcome := "damaged"
		if repair {
			if err := store.Delete(ctx, key); err != nil {
				return err
			}
			v.Repaired++
			outcome = "repaired"
		}
		fmt.Fprintf(out, "%s: %s: %v\n", outcome, key, wrong)
	}
	return ctx.Err()
}

func checkShape(ctx context.Context, store storage.Store, key string) error {
	object, err := store.Open(ctx, key)
	if err != nil {
		return err
	}
	defer object.Close()
	return content.CheckStored(object)
}

func megabytes(v storage.Verified) float64 { return float64(v.Bytes) / 1e6 }
