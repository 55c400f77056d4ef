package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

func newLogCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log [PATH]",
		Short: "Show and check the own log: its size, head and entries",
		Long: `Log shows the own log, in which the first content of each private version is pinned
forever: its name, size and newest signed head. With a module path it prints the
entries of that module and of the modules below it, each with its source and time; the
path "all" prints all entries. The server may be running.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			return withOwnLog(cmd.Context(), c, nil, func(own *pinlog.Log) error {
				if len(args) == 0 {
					return showLog(cmd, own)
				}
				path := args[0]
				if path == "all" {
					path = ""
				}
				return showEntries(cmd.OutOrStdout(), own, path)
			})
		},
	}
	config.AddFlags(cmd.Flags(), sharedLogFlags...)
	cmd.AddCommand(newLogCheckCommand(), newLogAdoptCommand(), newLogCreateCommand(), newLogMoveCommand())
	return cmd
}

// showLog prints the properties of the log, and its head.
func showLog(cmd *cobra.Command, own *pinlog.Log) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "name:  %s\nkey:   %s\nsize:  %d\n", own.Name(), own.Key(), own.Size())
	if err := own.Refuses(); err != nil {
		fmt.Fprintf(out, "state: refuses to sign: %s\n", inLines(err))
	} else {
		fmt.Fprintln(out, "state: good")
	}
	head, err := own.Latest(cmd.Context())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "head:\n\n%s", head)
	return err
}

// showEntries prints the entries of the modules at path and below it.
func showEntries(w io.Writer, own *pinlog.Log, path string) error {
	out := bufio.NewWriter(w)
	none := true
	for e, err := range own.Entries(path) {
		if err != nil {
			return errors.Join(out.Flush(), err)
		}
		none = false
		fmt.Fprintf(out, "%s\n  entry  %d of %s\n  zip    %s\n  go.mod %s\n  from   %s\n", e.Module, e.ID, e.Time.Format(time.RFC3339), e.Zip, e.Mod, e.Source())
	}
	if err := out.Flush(); err != nil {
		return err
	}
	switch {
	case none && path == "":
		return errors.New("the log has no entries yet")
	case none:
		return fmt.Errorf("no entry for %s or a module below it", path)
	}
	return nil
}

func newLogCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check everything that the own log has on disk",
		Long: `Check reads the own log again. It compares each entry with its checksum and the tree,
each signed head with the key and the tree, the guards with the tree, and, if no server
has the store open, the log with the store's notes about it. It prints each error and
exits with status 1 if there is one. The server may be running.

With --store it checks the log that several servers share in the bucket: every batch,
each signature, and the evidence and guards that it finds. That needs no key.

With --head it also compares a signed head that a client has seen: a go command keeps
its newest one in $GOPATH/pkg/sumdb/NAME/latest. If a log in a bucket does not have it, the
bucket was set back: the head is written to the bucket as evidence, and all servers stop to
sign within seconds.`,
		Args: cobra.NoArgs,
	}
	head := cmd.Flags().String("head", "", "`FILE` with a signed head that the log must contain.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, _, err := config.Load(cmd.Flags(), os.Getenv)
		if err != nil {
			return err
		}
		check := func(store storage.Store) error {
			return withOwnLog(cmd.Context(), c, store, func(own *pinlog.Log) error { return checkLog(cmd, own, *head) })
		}
		if daemon.SharesLog(c) {
			return check(nil)
		}
		if err = withStore(c.Data, bolt.Options{ReadOnly: true}, check); errors.Is(err, storage.ErrInUse) {
			return check(nil) // the server has compared it at its start
		}
		return err
	}
	config.AddFlags(cmd.Flags(), sharedLogFlags...)
	return cmd
}

// checkLog compares everything, and the head in the file called head, if head is not "".
func checkLog(cmd *cobra.Command, own *pinlog.Log, head string) error {
	err := own.Check(cmd.Context())
	if head != "" {
		seen, unread := os.ReadFile(head)
		if unread != nil {
			return errors.Join(err, unread)
		}
		err = errors.Join(err, own.Witness(seen)) // also if something else is wrong: it may be why
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d entries, nothing wrong\n", own.Name(), own.Count())
	return err
}

func newLogAdoptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt --head FILE | --no-client-has-seen-more",
		Short: "Let a log sign again that was moved or restored from a copy",
		Long: `Adopt makes a log sign again that refuses to sign because its files were copied, moved
or restored from a backup. A client that has seen a head never accepts one that does
not extend it, so the log must contain every head that clients have seen. The server
must be stopped.

If a machine is lost, the log is its newest backup, and no client has seen a head newer
than the backup, use --no-client-has-seen-more. If that is wrong, every client that has
seen a newer head stops with a SECURITY ERROR.

Otherwise name a FILE with the newest signed head that any client has seen: collect
$GOPATH/pkg/sumdb/NAME/latest from the machines of developers and CI, and use the one
with the largest number in its second line.

In both cases the log signs again only if it contains that head, all heads in its own
directory, the trees of its guards, and the store's notes about it; otherwise nothing
changes. If the log cannot be continued, begin a new one under a new name.`,
		Args: cobra.NoArgs,
	}
	head := cmd.Flags().String("head", "", "`FILE` with the newest signed head that any client has seen.")
	var complete bool
	cmd.Flags().BoolVar(&complete, "no-client-has-seen-more", false, "No client has seen a head newer than those in the directory.")
	cmd.Flags().BoolVar(&complete, "nobody-has-seen-more", false, "The old name of --no-client-has-seen-more.")
	_ = cmd.Flags().MarkHidden("nobody-has-seen-more") // the flag exists
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (*head == "") == !complete {
			return errors.New("say either --head FILE or --no-client-has-seen-more")
		}
		c, _, err := config.Load(cmd.Flags(), os.Getenv)
		if err != nil {
			return err
		}
		var seen []byte
		if *head != "" {
			if seen, err = os.ReadFile(*head); err != nil {
				return err
			}
		}
		if daemon.SharesLog(c) {
			return errors.New("a log in a bucket is not adopted: put back the newest state of the bucket and restart the servers, " +
				"or give your word once with --log-trust-bucket")
		}
		err = withStore(c.Data, bolt.Options{Existing: true}, func(store storage.Store) error {
			config := daemon.OwnLogConfig(c)
			config.Store = store
			return pinlog.Adopt(cmd.Context(), config, seen)
		})
		if _, missing := os.Stat(daemon.OwnLogConfig(c).Dir); err != nil && errors.Is(missing, fs.ErrNotExist) {
			return fmt.Errorf("there is no log in %s; name the server's directory with --data", daemon.OwnLogConfig(c).Dir)
		}
		if errors.Is(err, storage.ErrInUse) {
			return fmt.Errorf("a server is using the log in %s; stop it first", daemon.OwnLogConfig(c).Dir)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "the log signs again from the next start")
		return err
	}
	config.AddFlags(cmd.Flags(), "data", "log-guard", "store", "log-key")
	return cmd
}
