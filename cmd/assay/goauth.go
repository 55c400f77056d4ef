package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-proxy/assay/cmd/assay/config"
)

const (
	// oidcTime is how long a CI system may take to issue a token.
	oidcTime = 10 * time.Second
	// // longest token in bytes; the server accepts no longer header
	maxToken = 8 << 10
)

func newGoAuthCommand() *cobra.Command {
	o := goAuthOptions{url: config.FlagText{Kind: "URL"}, file: config.FlagText{Kind: "FILE"}, env: config.FlagText{Kind: "NAME"}, audience: config.FlagText{Kind: "AUDIENCE"}}
	cmd := &cobra.Command{
		Use:   "goauth --url URL [flags]",
		Short: "Give the go command a token for the proxy (GOAUTH)",
		Long: `Goauth is a program for the go command's variable GOAUTH (go help goauth). It prints
the header with which the go command sends a token to the proxy, and to no other host:

    export GOAUTH='assay goauth --url https://proxy.corp.example --token-file /run/secrets/assay'

The token is in a file or in an environment variable (ASSAY_TOKEN_FILE with the name of
the file, or ASSAY_TOKEN), or a CI system issues it for the job. If the proxy rejects a token of GitHub Actions, goauth requests a new one. The go
command prints the errors of goauth only with -x (go mod download -x).`,
		Args: cobra.MaximumNArgs(1), // the go command adds the URL whose request failed
		RunE: func(cmd *cobra.Command, args []string) error {
			failed := strings.Join(args, "") // at most one argument
			return goAuth(cmd.Context(), o, failed, os.Getenv, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	o.addFlags(cmd)
	return cmd
}

// goAuthOptions are the flags of goauth.
type goAuthOptions struct{ url, file, env, audience config.FlagText }

func (o *goAuthOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().SortFlags = false
	cmd.Flags().Var(&o.url, "url", "URL of the proxy as in GOPROXY: https, with the path if it has one. Required.")
	cmd.Flags().Var(&o.file, "token-file", "File with a token. (ASSAY_TOKEN_FILE)")
	cmd.Flags().Var(&o.env, "token-env", "Environment variable with a token, for example from id_tokens in GitLab. Default, without any of these flags: ASSAY_TOKEN.")
	cmd.Flags().Var(&o.audience, "audience", "Request a token for this audience from GitHub Actions; the job needs the permission id-token: write.")
	cmd.MarkFlagsMutuallyExclusive("token-file", "token-env", "audience")
}

// goAuth implements GOAUTH for the go command: failed is the URL whose response had a status 4xx,
// "" for the first call, and in has that response.
func goAuth(ctx context.Context, o goAuthOptions, failed string, getenv func(string) string, in io.Reader, out io.Writer) error {
	proxy, err := parseProxyURL(o.url.Text)
	if err != nil {
		return err
	}
	if failed != "" && (!below(failed, proxy) || !mayBeAuth(in)) {
		return nil
	}
	token, err := o.token(ctx, getenv)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n\nAuthorization: Bearer %s\n\n", proxy, token)
	return err
}

// parseProxyURL refuses a URL to which the go command would not send a token, and one that the go
// command reads differently.
func parseProxyURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("--url is missing; it must be the proxy's URL, as it is in GOPROXY")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("--url is not a URL")
	case u.User != nil:
		return nil, errors.New("--url must be without a user and a password; the token identifies the client")
	case u.Scheme != "https":
		return nil, fmt.Errorf("--url must be https: over %q the token could be read in transit, and the go command does not send it", u.Scheme)
	case u.Hostname() == "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("--url must have a host, and neither a query nor a fragment")
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	return u, nil
}

// below reports whether a URL is the proxy's or one below it.
func below(text string, proxy *url.URL) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || !strings.EqualFold(u.Hostname(), proxy.Hostname()) {
		return false
	}
	if cmp.Or(u.Port(), "443") != cmp.Or(proxy.Port(), "443") {
		return false
	}
	path, prefix := u.EscapedPath(), proxy.EscapedPath()
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// mayBeAuth reports whether another token can change the response in in. A private module is a 404
// for clients that may not see it. A response that cannot be read counts: the go command runs this
// command again only after a failure.
func mayBeAuth(in io.Reader) bool {
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 { // a terminal: its user would have to enter the response
			return true
		}
	}
	line, _ := bufio.NewReader(io.LimitReader(in, 1<<10)).ReadString('\n')
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return true
	}
	status, err := strconv.Atoi(fields[1])
	return err != nil || status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound
}

// token returns the token from the source that the flags name.
func (o goAuthOptions) token(ctx context.Context, getenv func(string) string) (string, error) {
	switch {
	case o.file.Text != "":
		return fileToken(o.file.Text)
	case o.audience.Text != "":
		return actionsToken(ctx, o.audience.Text, getenv)
	}
	name := cmp.Or(o.env.Text, "ASSAY_TOKEN")
	value := getenv(name)
	if file := getenv("ASSAY_TOKEN_FILE"); o.env.Text == "" && file != "" {
		if value != "" {
			return "", errors.New("ASSAY_TOKEN and ASSAY_TOKEN_FILE are both set; remove one of them")
		}
		return fileToken(file)
	}
	if value == "" && o.env.Text == "" {
		return "", errors.New("there is no token: set ASSAY_TOKEN or ASSAY_TOKEN_FILE, or use --token-file, --token-env or --audience")
	}
	token, err := cleanToken(value)
	if err != nil {
		return "", fmt.Errorf("environment variable %s: %w", name, err)
	}
	return token, nil
}

func fileToken(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxToken+3)) // and a line end
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token, err := cleanToken(string(data))
	if err != nil {
		return "", fmt.Errorf("token file %s: %w", name, err)
	}
	return token, nil
}

// cleanToken returns a token without the white space around it. A parser of the header must find
// nothing but the token in it. No error contains a part of it.
func cleanToken(text string) (string, error) {
	token := strings.TrimSpace(text)
	switch {
	case token == "":
		return "", errors.New("it is empty")
	case len(token) > maxToken:
		return "", fmt.Errorf("it has more than %d bytes", maxToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("it is not a token: it contains white space or an unprintable character")
	}
	return token, nil
}

// actionsToken requests an OIDC token of the job from GitHub Actions. See
// https://docs.github.com/actions/reference/security/oidc#methods-for-requesting-the-oidc-token.
func actionsToken(ctx context.Context, audience string, getenv func(string) string) (string, error) {
	address, credential := getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address == "" || credential == "" {
		return "", errors.New("GitHub Actions issues no OIDC tokens to this job; it needs\n    permissions:\n      id-token: write")
	}
	u, err := url.Parse(address)
	if err != nil || !encrypted(u) {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not an https URL")
	}
	query := u.Query()
	query.Set("audience", audience)
	u.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, oidcTime)
	defer cancel()
	token, err := requestToken(ctx, u, credential)
	if err != nil {
		return "", fmt.Errorf("OIDC token from %s: %w", u.Host, err)
	}
	return token, nil
}

// encrypted reports whether requests to a URL cannot be read on the network.
func encrypted(u *url.URL) bool {
	local := u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
	return u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && local)
}

// requestToken sends one request for a token.
func requestToken(ctx context.Context, u *url.URL, credential string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", errors.New("the URL is malformed")
	}
	r.Header.Set("Authorization", "Bearer "+credential)
	r.Header.Set("Accept", "application/json")
	// No http.Client: it would follow a redirect, and quotes the URL in its errors.
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the answer is %s", resp.Status)
	}
	var answer struct {
		Value string `json:"value"`
	}
	// The decoder's errors can quote the response.
	if err := json.NewDecoder(io.LimitReader(resp.Body, 2*maxToken)).Decode(&answer); err != nil {
		return "", errors.New("unexpected response: not the expected JSON")
	}
	return cleanToken(answer.Value)
}
