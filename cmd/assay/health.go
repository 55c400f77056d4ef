package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

// healthTime bounds the wait for a response.
const healthTime = 5 * time.Second

func newHealthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Check whether the server on this machine is ready",
		Long: `Health requests /readyz from the server that uses the same settings, and prints one
line. It exits with status 1 if the server does not report within five seconds that it
is ready. Use it as the health check of a container without a shell.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := readAddress(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTime)
			defer cancel()
			return health(ctx, address, cmd.OutOrStdout())
		},
	}
	config.AddFlags(cmd.Flags(), "listen", "tls-cert", "prefix")
	return cmd
}

// address is where a server can be reached, as far as it is known.
type address struct {
	listen string // host:port, or unix: and the path of a socket
	tls    bool
	prefix string // of all paths
}

// readAddress returns the address on which serve would listen. Unlike config.Load it checks nothing
// else: a file that serve refused to reload must not make a server look dead that still runs with
// the old one, and in a container the address comes from the image.
func readAddress(flags *pflag.FlagSet, getenv func(string) string) (address, error) {
	listen, err := config.Lookup("listen", flags, getenv)
	if err != nil {
		return address{}, err
	}
	cert, _ := config.Lookup("tls-cert", flags, getenv) // "" if the file cannot be read, see health
	prefix, _ := config.Lookup("prefix", flags, getenv)
	return address{listen, cert != "", strings.TrimSuffix(prefix, "/")}, nil
}

// health sends a request to the server at a. If the server uses TLS although the settings say the
// opposite, or the reverse, health repeats the request accordingly: the server may have the setting
// from a flag, or from an earlier version of the file.
func health(ctx context.Context, a address, out io.Writer) error {
	status, err := askReady(ctx, a, out)
	if status == http.StatusBadRequest && !a.tls || errors.As(err, new(tls.RecordHeaderError)) {
		a.tls = !a.tls
		_, err = askReady(ctx, a, out)
	}
	return err
}

// askReady sends one request to the server at a, and returns the status of the
// answer, 0 if there is none.
func askReady(ctx context.Context, a address, out io.Writer) (status int, err error) {
	url, err := a.healthURL()
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	// Without the proxies of the environment: the server is on this machine. Its certificate is for
	// another name than localhost, and the request contains nothing secret.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if path, ok := config.Socket(a.listen); ok {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("no answer from %s: %w", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return 0, fmt.Errorf("no answer from %s: %w", url, err)
	}
	text := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, fmt.Errorf("%s is not ready: %d %s", url, resp.StatusCode, text)
	}
	_, err = fmt.Fprintf(out, "%s: %s\n", url, text)
	return resp.StatusCode, err
}

// healthURL returns the URL for a request to a server at a. If it listens on every interface, it
// listens on this machine, too. A socket needs no host in it.
func (a address) healthURL() (string, error) {
	scheme := "http"
	if a.tls {
		scheme = "https"
	}
	if _, ok := config.Socket(a.listen); ok {
		return scheme + "://localhost" + a.prefix + "/readyz", nil
	}
	host, port, err := net.SplitHostPort(a.listen)
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port) + a.prefix + "/readyz", nil
}
