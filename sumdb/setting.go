package sumdb

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// The only database that the go command knows by a short name, and its key
// (cmd/go/internal/modfetch/key.go).
const (
	defaultName = "sum.golang.org"
	defaultKey  = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
)

// userinfo matches user and password in a URL, which no error may show. A password may
// contain an @.
var userinfo = regexp.MustCompile(`//[^/\s]*@`)

// Setting is a parsed value of GOSUMDB.
type Setting struct {
	Off  bool   // no database; no other field is set then
	Name string // for instance sum.golang.org
	Key  string // verifier key, name+hash+key

	// URL is the base URL of the database for direct requests: https://NAME unless the setting
	// names another.
	URL string

	// Direct means that the setting names a URL. The go command then sends its requests to this URL
	// instead of to a proxy, and so should we.
	Direct bool
}

// ParseGOSUMDB parses a value of GOSUMDB like the go command: a known name (sum.golang.org, or
// sum.golang.google.cn for the same database elsewhere) or a verifier key, either of them followed
// by a URL if the database is not at https://NAME; or off. The empty string stands for
// sum.golang.org. Errors contain the value and the allowed forms.
func ParseGOSUMDB(value string) (Setting, error) {
	switch value {
	case "":
		value = defaultName
	case "off":
		return Setting{Off: true}, nil
	case "sum.golang.google.cn":
		value = defaultName + " https://sum.golang.google.cn"
	}
	setting, err := parseDatabase(strings.Fields(value))
	if err != nil {
		return Setting{}, fmt.Errorf("GOSUMDB=%q: %w; allowed are %s, a verifier key NAME+HASH+KEY, either followed by a URL, or off",
			userinfo.ReplaceAllString(value, "//xxxxx@"), err, defaultName)
	}
	return setting, nil
}

func parseDatabase(fields []string) (Setting, error) {
	if len(fields) == 0 {
		return Setting{}, errors.New("is blank")
	}
	if len(fields) > 2 {
		return Setting{}, fmt.Errorf("has %d fields", len(fields))
	}
	key := fields[0]
	if key == defaultName {
		key = defaultKey
	}
	verifier, err := NewVerifier(key)
	if err != nil {
		return Setting{}, err
	}
	setting := Setting{Name: verifier.Name(), Key: key, URL: "https://" + verifier.Name()}
	if len(fields) == 1 {
		return setting, nil
	}
	u, err := url.Parse(fields[1])
	if err != nil || u.Opaque != "" || !validBase(u) {
		return Setting{}, errors.New("the second field is not a URL with http, https or file")
	}
	setting.URL, setting.Direct = u.String(), true
	return setting, nil
}

// validBase reports whether files can be fetched below u.
func validBase(u *url.URL) bool {
	switch u.Scheme {
	case "http", "https":
		return u.Host != ""
	case "file":
		return strings.HasPrefix(u.Path, "/")
	}
	return false
}
