package fetch

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"unicode"
)

// Entry is one element of a list in the syntax of GOPROXY.
type Entry struct {
	URL    *url.URL // http, https or file, with its credentials; nil if Off or Direct
	Off    bool     // the word off, always the last entry
	Direct bool     // the word direct, always the last entry

	// AnyError means that | follows the entry: after any error here, the next entry is tried.
	// Otherwise it is tried only if this one does not have the object.
	AnyError bool
}

// String returns the entry without credentials and query.
func (e Entry) String() string {
	switch {
	case e.Off:
		return "off"
	case e.Direct:
		return "direct"
	}
	return redactURL(e.URL)
}

// ParseList parses a list in the syntax of GOPROXY (go.dev/ref/mod#environment-variables) like the
// go command: it trims entries, skips empty ones, reads a host without a scheme as https, and
// ignores everything after off or direct.
//
// A list without an entry is an error, as is a URL that could not work: another scheme, no host, a
// file with a host or a query, or credentials that would be sent unencrypted (http, except to a
// loopback address). No error contains credentials.
func ParseList(list string) ([]Entry, error) {
	var entries []Entry
	for rest := list; rest != ""; {
		text, anyError := rest, false
		if i := strings.IndexAny(rest, ",|"); i >= 0 {
			text, anyError, rest = rest[:i], rest[i] == '|', rest[i+1:]
		} else {
			rest = ""
		}
		switch text = strings.TrimSpace(text); text {
		case "":
			continue
		case "off":
			return append(entries, Entry{Off: true}), nil
		case "direct":
			return append(entries, Entry{Direct: true}), nil
		}
		u, err := parseURL(text)
		if err != nil {
			return nil, fmt.Errorf("entry %d, %s: %w", len(entries)+1, redactEntry(text), err)
		}
		entries = append(entries, Entry{URL: u, AnyError: anyError})
	}
	if len(entries) == 0 {
		return nil, errors.New("the list has no entries; use off to have no upstream")
	}
	return entries, nil
}

// formatList returns the list of entries, without credentials.
func formatList(entries []Entry) string {
	var b strings.Builder
	for i, e := range entries {
		b.WriteString(e.String())
		switch {
		case i == len(entries)-1: // a separator after the last one means nothing
		case e.AnyError:
			b.WriteByte('|')
		default:
			b.WriteByte(',')
		}
	}
	return b.String()
}

// withScheme adds https:// where the go command does: single words are reserved, and a text with :/
// or an absolute path must be a complete URL.
func withScheme(text string) string {
	if strings.ContainsAny(text, ".:/") && !strings.Contains(text, ":/") && !filepath.IsAbs(text) && !path.IsAbs(text) {
		return "https://" + text
	}
	return text
}

func parseURL(text string) (*url.URL, error) {
	if strings.ContainsFunc(text, unicode.IsSpace) {
		return nil, errors.New("not a URL: it contains white space")
	}
	u, err := url.Parse(withScheme(text))
	if err != nil {
		return nil, errors.New("not a URL") // the error of url.Parse quotes it
	}
	switch u.Scheme {
	case "https", "http":
		if u.Hostname() == "" {
			return nil, errors.New("no host")
		}
		if u.User != nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
			return nil, errors.New("refusing to send credentials over http; use https")
		}
	case "file":
		if *u != (url.URL{Scheme: u.Scheme, Path: u.Path, RawPath: u.RawPath}) || u.Path == "" {
			return nil, errors.New("a file URL has a path and nothing else: file:///srv/modules")
		}
	case "":
		return nil, errors.New("no scheme (a directory is file:///srv/modules)")
	default:
		return nil, errors.New("the scheme must be https, http or file")
	}
	u.Fragment, u.RawFragment = "", ""
	// An entry must be accepted in the form in which we print it; url.Parse accepts some hosts that
	// it does not accept as it prints them.
	printed := redactURL(u)
	if again, err := url.Parse(printed); err != nil || again.String() != printed || strings.ContainsAny(printed, ",| ") {
		return nil, errors.New("not a URL")
	}
	return u, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Redact returns text, a list in the syntax of GOPROXY or a value of GOSUMDB, without the
// credentials and queries of the URLs in it. It leaves out a text that looks like a URL but cannot
// be parsed.
func Redact(text string) string {
	var b strings.Builder
	for text != "" {
		i := strings.IndexAny(text, ",| \t\r\n")
		if i < 0 {
			i = len(text)
		}
		b.WriteString(redactEntry(text[:i]))
		if i < len(text) {
			b.WriteByte(text[i])
			i++
		}
		text = text[i:]
	}
	return b.String()
}

// redactEntry returns text without credentials, whether it is a URL or not.
func redactEntry(text string) string {
	if !strings.ContainsAny(text, ":@?") {
		return text
	}
	u, err := url.Parse(withScheme(text))
	if err != nil || u.Opaque != "" {
		return "(malformed)"
	}
	bare := !strings.Contains(text, ":/")
	if u.User == nil && u.RawQuery == "" && u.Fragment == "" && !strings.Contains(text, "@") {
		return text
	}
	if u.Host == "" {
		return "(malformed)"
	}
	redacted := redactURL(u)
	if bare {
		redacted = strings.TrimPrefix(redacted, "https://")
	}
	return redacted
}

// redactURL returns u without credentials, query and fragment.
func redactURL(u *url.URL) string {
	bare := *u
	bare.User, bare.RawQuery, bare.ForceQuery, bare.Fragment, bare.RawFragment = nil, "", false, "", ""
	return bare.String()
}
