package s3

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/storage"
)

// maxPrefix is the maximum length of the prefix of a store, so that every key fits into the 1,024
// bytes that S3 allows.
const maxPrefix = 1024 - storage.MaxKey - len("o/") - len("/")

// Options say where a store is, and what it may use.
type Options struct {
	Bucket string
	Prefix string // of all keys in the bucket, without slashes at its ends; may be empty

	// Endpoint is the URL of the server; empty for that of AWS in the region. PathStyle puts the
	// bucket into the path and not into the host name.
	Endpoint  string
	Region    string // empty: the one of the environment or of the profile, else us-east-1
	PathStyle bool

	// Encryption is the server-side encryption of what is written: empty for the default of the
	// bucket, AES256, aws:kms or aws:kms:dsse. KMSKey is the key of the last two.
	Encryption string
	KMSKey     string

	// Profile is the one of the shared configuration that has the credentials; empty: they are found as usual.
	// With it, those in the environment do not count.
	Profile string

	RootCAs *x509.CertPool // authorities to trust; nil: those of the system, or of AWS_CA_BUNDLE

	// Spool is the directory for contents of more than 256 KiB that are not complete yet, which no other
	// process uses. Open removes what is left there. Empty: the one for temporary files.
	Spool string

	// Readers is the memory for open objects of at most 256 KiB, and Large for larger ones while they are read, 256 KiB to
	// 4 MiB for each, and a sixth of it at most: what a client reads slowly holds it. Writers is the memory for drafts, 256 KiB for each. They may be nil: then
	// there is no limit.
	Readers, Large, Writers *memory.Budget

	Logger *slog.Logger // nil: the default one
}

// ParseURL returns the options of a URL of the form
//
//	s3://BUCKET/PREFIX?endpoint=URL&region=R&path-style=true&sse=aws:kms&sse-kms-key=KEY&profile=NAME
//
// All but the bucket may be absent. It has no credentials: those are found as the AWS command line
// does, in the environment, in profiles, or from the machine; with a profile, only there.
func ParseURL(s string) (Options, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Options{}, errors.New("store: not a URL of the form s3://BUCKET/PREFIX") // the error of url may quote a secret
	}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case u.Scheme != "s3" || u.Host == "" || u.Opaque != "":
		return Options{}, errors.New("store: want a URL of the form s3://BUCKET/PREFIX")
	case u.User != nil:
		return Options{}, errors.New("store: credentials do not belong into the URL; use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
	case strings.Contains(u.Host, ":"):
		return Options{}, errors.New("store: what follows s3:// is the name of a bucket; the address of a server is ?endpoint=URL")
	case u.Fragment != "" || err != nil:
		return Options{}, errors.New("store: what follows the bucket and the prefix must be ?NAME=VALUE&NAME=VALUE")
	}
	o := Options{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	for name, values := range query {
		value := values[0]
		if len(values) > 1 {
			return Options{}, fmt.Errorf("store: the parameter %.40q is there twice", name)
		}
		switch name {
		case "endpoint":
			o.Endpoint = value
		case "region":
			o.Region = value
		case "path-style":
			if o.PathStyle, err = strconv.ParseBool(value); err != nil {
				return Options{}, fmt.Errorf("store: path-style must be true or false, not %.40q", value)
			}
		case "sse":
			o.Encryption = value
		case "sse-kms-key":
			o.KMSKey = value
		case "profile":
			if o.Profile = value; value == "" {
				return Options{}, errors.New("store: profile has no name")
			}
		default:
			return Options{}, fmt.Errorf("store: no parameter %.40q; there are endpoint, region, path-style, sse, sse-kms-key and profile", name)
		}
	}
	return o, o.check()
}

func (o Options) check() error {
	if o.Bucket == "" {
		return errors.New("store: the bucket has no name")
	}
	if o.Prefix != "" {
		if err := storage.CheckKey(o.Prefix); err != nil {
			return fmt.Errorf("store: prefix in the bucket: %w", err)
		}
	}
	if len(o.Prefix) > maxPrefix {
		return fmt.Errorf("store: the prefix in the bucket is longer than %d bytes", maxPrefix)
	}
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("store: endpoint must be an http or https URL without credentials")
		}
	}
	switch o.Encryption {
	case "", "AES256":
		if o.KMSKey != "" {
			return errors.New("store: sse-kms-key is for sse=aws:kms and sse=aws:kms:dsse")
		}
	case "aws:kms", "aws:kms:dsse":
	default:
		return fmt.Errorf("store: sse is AES256, aws:kms or aws:kms:dsse, not %.40q", o.Encryption)
	}
	return nil
}
