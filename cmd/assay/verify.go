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
	"github.com/assay-proxy/assay/proxy"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

func newVerifyCommand() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read everything that is stored and report what is damaged",
		Long: `Verify reads every stored byte and checks it, and prints a line for each thing that
is damaged, zips among it that have bytes which no hash covers. It exits with status 1
if anything is, or stays, damaged.

With --repair it drops what is damaged, so that it is fetched and proved again when a
client asks for it. Whether an .info is right cannot be checked: with --repair each is
asked for again when it is used, and replaced if the upstream says something else. The server must be stopped; damage it meets while running it
repairs in the same way.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			return verify(cmd.Context(), c.Data, repair, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	config.AddFlags(cmd.Flags(), "data")
	cmd.Flags().BoolVar(&repair, "repair", false, "Drop what is damaged.")
	return cmd
}

// progressEvery is how often verify says how far it is.
const progressEvery = 5 * time.Second

// verify checks the store in the directory data. Damage that stays is an error.
func verify(ctx context.Context, data string, repair bool, out, errOut io.Writer) error {
	db, err := bolt.Open(data, &bolt.Options{Existing: true})
	if errors.Is(err, fs.ErrNotExist) {
		dir, _ := filepath.Abs(data) // "" is good enough
		return fmt.Errorf("there is no store in %s (%s); name its directory with --data", data, dir)
	}
	if err != nil {
		return err
	}
	defer db.Close()

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
	if repair { // nothing proves an .info, so each is asked for again
		if err := proxy.RecheckInfos(ctx, db); err != nil {
			return err
		}
	}
	if err := verifyShapes(ctx, db, repair, &v, out); err != nil {
		return err
	}
	fmt.Fprintf(out, "verified %d objects (%.1f MB) and %d records: %d damaged, %d repaired\n",
		v.Objects, megabytes(v), v.Records, v.Damaged, v.Repaired)
	switch {
	case v.Damaged == v.Repaired:
		return nil
	case !repair:
		return errors.New("the store is damaged; assay verify --repair drops what is, so that it is fetched again")
	}
	return errors.New("not everything could be repaired; put meta.db and blobs.db back from a backup, or move both away and start with an empty store, and leave log/ and tokens as they are")
}

// verifyShapes looks for stored zips with bytes that no hash covers, drops them with
// repair, and counts them in v.
func verifyShapes(ctx context.Context, store storage.Store, repair bool, v *storage.Verified, out io.Writer) error {
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return err
		}
		if !strings.HasSuffix(info.Key, ".zip") {
			continue
		}
		wrong := checkShape(ctx, store, info.Key)
		if !errors.Is(wrong, modzip.ErrShape) {
			continue // anything else that is wrong has been reported
		}
		v.Damaged++
		outcome := "damaged"
		if repair {
			if err := store.Delete(ctx, info.Key); err != nil {
				return err
			}
			v.Repaired++
			outcome = "repaired"
		}
		fmt.Fprintf(out, "%s: %s: %v\n", outcome, info.Key, wrong)
	}
	return ctx.Err()
}

func checkShape(ctx context.Context, store storage.Store, key string) error {
	object, err := store.Open(ctx, key)
	if err != nil {
		return err
	}
	defer object.Close()
	return proxy.CheckStored(object)
}

func megabytes(v storage.Verified) float64 { return float64(v.Bytes) / 1e6 }
