package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/fetch"
	"github.com/assay-proxy/assay/proxy/privacy"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/sumdb"
)

// Check checks everything that can be checked without opening the data directory.
func Check(c config.Config) error {
	if _, err := policyOf(c); err != nil {
		return err
	}
	if _, err := databasesOf(c); err != nil {
		return err
	}
	entries, err := fetch.ParseList(c.Upstream)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	if entries[len(entries)-1].Direct && c.VCS == "off" {
		return errDirectOff
	}
	if c.Store != "" {
		if _, err := s3.ParseURL(c.Store); err != nil {
			return err
		}
	}
	_, err = readCredentials(c)
	return err
}

// errDirectOff means that two settings contradict each other.
var errDirectOff = errors.New("upstream ends with direct, and vcs is off: nothing can be fetched from repositories; remove one of them")

// checkStart performs all checks of a start with the settings c, including those of the files that
// they name.
func checkStart(c config.Config, log *slog.Logger) error {
	if err := Check(c); err != nil {
		return err
	}
	if err := checkCredentials(c); err != nil {
		return err
	}
	if _, err := readHookSecret(c); err != nil {
		return err
	}
	if c.TLSCert != "" {
		if _, err := newCertificates(c, log); err != nil {
			return err
		}
	}
	from, err := newClients(c.TrustedProxies)
	if err != nil {
		return err
	}
	_, err = access.New(context.Background(), accessConfig(c, from, log))
	return err
}

// policyOf returns the rules of c about private modules.
func policyOf(c config.Config) (*privacy.Policy, error) {
	p, err := privacy.New(c.Private)
	if err != nil {
		return nil, err
	}
	return p.Restrict(c.Access)
}

// databasesOf returns the checksum databases of c; the first one verifies modules.
func databasesOf(c config.Config) ([]sumdb.Setting, error) {
	var all []sumdb.Setting
	first, err := sumdb.ParseGOSUMDB(c.SumDB)
	if err != nil {
		return nil, fmt.Errorf("sumdb: %w", err)
	}
	if !first.Off {
		all = append(all, first)
	}
	for key := range strings.SplitSeq(c.Mirror, ",") {
		if key == "" {
			continue
		}
		db, err := sumdb.ParseGOSUMDB(key)
		if err != nil {
			return nil, fmt.Errorf("mirror: %w", err)
		}
		if db.Off {
			return nil, errors.New("mirror: off is not a verifier key; omit the setting to serve no additional databases")
		}
		if slices.ContainsFunc(all, func(other sumdb.Setting) bool { return other.Name == db.Name }) {
			return nil, fmt.Errorf("mirror: %s is named twice, here or in sumdb; the database in sumdb is always served", db.Name)
		}
		all = append(all, db)
	}
	return all, nil
}

// readCredentials reads the file with the credentials for code hosts.
func readCredentials(c config.Config) ([]vcs.Credential, error) {
	if c.Credentials == "" {
		return nil, nil
	}
	// The file decides which hosts receive secrets.
	if err := config.CheckMode(c.Credentials, config.OthersWrite); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var file struct {
		Credential []vcs.Credential `toml:"credential"`
	}
	meta, err := toml.DecodeFile(c.Credentials, &file)
	var syntax toml.ParseError
	if errors.As(err, &syntax) {
		// The parser's error quotes the line, which may contain a secret.
		return nil, fmt.Errorf("credentials: %s: line %d is not TOML", c.Credentials, syntax.Position.Line)
	}
	if err != nil {
		return nil, fmt.Errorf("credentials: %s: %w", c.Credentials, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("credentials: %s: unknown key %s", c.Credentials, unknown[0])
	}
	return file.Credential, nil
}

// TokenVariables returns the names of the environment variables that contain tokens for code hosts.
func TokenVariables(c config.Config) (names []string) {
	credentials, _ := readCredentials(c) // the error is reported elsewhere
	for _, credential := range credentials {
		names = append(names, credential.TokenEnv)
	}
	return names
}

// checkCredentials reads all files with credentials for code hosts, without a request to a host.
func checkCredentials(c config.Config) error {
	credentials, err := readCredentials(c)
	if err != nil {
		return err
	}
	return vcs.CheckCredentials(credentials, c.Netrc)
}

// accessConfig returns the configuration of client authentication.
func accessConfig(c config.Config, from *clients, log *slog.Logger) access.Config {
	return access.Config{
		Htpasswd: c.Htpasswd, Groups: c.Groups, Tokens: c.TokenFile(), OIDC: c.OIDC, Certificates: c.TLSClientCA != "",
		Remote: from.address, Logger: log,
	}
}

// readHookSecret reads the secret of the webhooks.
func readHookSecret(c config.Config) (string, error) {
	if c.HookSecret == "" {
		return "", nil
	}
	if err := config.CheckMode(c.HookSecret, config.OthersAny); err != nil {
		return "", fmt.Errorf("hook-secret-file: %w", err)
	}
	data, err := os.ReadFile(c.HookSecret)
	if err != nil {
		return "", fmt.Errorf("hook-secret-file: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if len(secret) < 16 {
		return "", fmt.Errorf("hook-secret-file: the secret in %s has %d characters and needs at least 16; generate one with: openssl rand -hex 20", c.HookSecret, len(secret))
	}
	return secret, nil
}
