package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// healthTime is how long health waits for an answer.
const healthTime = 5 * time.Second

func newHealthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the server on this machine whether it is ready",
		Long: `Health asks /readyz of the server that listens where serve would with the same
settings, and prints a line. It exits with status 1 if the server does not say within
five seconds that it is ready. It is the health check of a container without a shell.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listen, err := listenAddress(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTime)
			defer cancel()
			return health(ctx, listen, cmd.OutOrStdout())
		},
	}
	addFlags(cmd.Flags(), "listen")
	return cmd
}

// listenAddress returns the address that serve would listen on. Unlike
// loadConfig it looks at nothing else: a file that serve refused to reload must
// not have a server that goes on with the old one taken for dead. The file is
// read only if neither flag nor environment have the address.
func listenAddress(flags *pflag.FlagSet, getenv func(string) string) (string, error) {
	all := settings()
	s := all[slices.IndexFunc(all, func(s setting) bool { return s.Name == "listen" })]
	var (
		file     map[string]string
		fileName string
		err      error
	)
	if !flags.Changed(s.Name) && getenv(s.Env) == "" {
		if file, fileName, err = readConfigFile(flags, getenv); err != nil {
			return "", err
		}
	}
	listen, _ := choose(s, flags, getenv, file, fileName)
	return listen, nil
}

// health asks the server that listens at listen.
func health(ctx context.Context, listen string, out io.Writer) error {
	url, err := healthURL(listen)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{} // without the proxies of the environment: it is this machine
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("no answer from %s: %w", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return fmt.Errorf("no answer from %s: %w", url, err)
	}
	text := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: %d %s", url, resp.StatusCode, text)
	}
	_, err = fmt.Fprintf(out, "%s: %s\n", url, text)
	return err
}

// healthURL returns where to ask a server that listens at listen: on every
// interface means on this machine too.
func healthURL(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + "/readyz", nil
}
