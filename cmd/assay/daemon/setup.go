package daemon

import (
	"embed"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/proxy/privacy"
)

// setup tells clients how to configure the go command: on a page, and in scripts that do it. The
// values in the scripts have only characters that mean nothing between the single quotes of a shell;
// see site.url and plainPattern.
type setup struct {
	site    *site
	current *inForce
	access  *access.Authenticator
	ownLog  string // its key, if it is a database for all modules, else ""
}

//go:embed setup
var setupScripts embed.FS

// shell is one that has a script.
type shell struct {
	end    string // of the name of the script
	name   string // on the page
	values string // the form of the values: proxy, sumdb, and patterns, separated by spaces
	run    string // the form of the command that runs the script
}

func shells() []shell {
	return []shell{
		{"sh", "in a shell", "proxy='%s' sumdb='%s' patterns='%s'", "curl -fsSL %s | sh"},
		{"fish", "in fish", "set -l proxy '%s'; set -l sumdb '%s'; set -l patterns (string split -n ' ' '%s')", "curl -fsSL %s | source"},
		{"ps1", "in PowerShell", "$proxy = '%s'; $sumdb = '%s'; $patterns = @('%s' -split ' ' | Where-Object { $_ })", "irm %s | iex"},
	}
}

// setupPath is the beginning of the paths of the scripts.
const setupPath = "/-/setup."

// page tells a client how to configure the go command.
func (s *setup) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store") // it depends on headers of the request
	text := "This is Assay, a Go module proxy. Configure the go command:\n\n"
	scheme, url, err := s.site.url(r)
	if err != nil {
		writeText(w, http.StatusOK, text+"    go env -w GOPROXY=URL\n\nwith the URL of this page. This request does not tell it: "+err.Error()+".\n")
		return
	}
	text += "    go env -w GOPROXY=" + url + "\n"
	id, _ := s.access.Identify(r) // one that is wrong is anonymous
	if patterns := s.patterns(id); s.ownLog != "" && scheme == "https" {
		text += "    go env -w GOSUMDB=" + s.ownLog + "\n"
	} else if s.ownLog == "" && len(patterns) > 0 {
		text += "    go env -w 'GONOSUMDB=" + strings.Join(patterns, ",") + "'\n"
	}
	if scheme == "https" {
		text += "\nor let a script do it, which keeps the old values:\n\n"
		for _, sh := range shells() {
			text += fmt.Sprintf("    "+sh.run+"    # %s\n", url+setupPath+sh.end, sh.name)
		}
	}
	writeText(w, http.StatusOK, text)
}

// script responds with the script for a shell. It goes over https alone, because it is run as it
// comes. Each line of an error is a comment, because curl without -f passes errors on to the shell.
func (s *setup) script(sh shell) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		scheme, url, err := s.site.url(r)
		if err != nil {
			writeText(w, http.StatusBadRequest, "# bad request: the URL of this server is unknown\n# "+err.Error()+"\n")
			return
		}
		if scheme != "https" {
			writeText(w, http.StatusForbidden, "# refused: scripts are served over https only\n# configure the go command yourself, see "+url+"/\n"+
				"# behind a reverse proxy with TLS: see trusted-proxies\n")
			return
		}
		id, err := s.access.Identify(r)
		if err != nil {
			writeText(w, http.StatusUnauthorized, "# unauthorized: the credential is wrong, or cannot be checked\n")
			return
		}
		text, err := setupScripts.ReadFile("setup/setup." + sh.end)
		if err != nil {
			panic(err) // it is part of the program
		}
		var patterns []string
		if s.ownLog == "" {
			patterns = s.patterns(id)
		}
		values := fmt.Sprintf(sh.values, url, s.ownLog, strings.Join(patterns, " "))
		writeText(w, http.StatusOK, strings.NewReplacer("@VALUES@", values, "URL/-/", url+"/-/").Replace(string(text)))
	}
}

// patterns returns the private patterns that a client may know: those whose modules it may read. A
// pattern without a rule is known to all clients if its modules are read without a credential.
func (s *setup) patterns(id access.Identity) []string {
	now := s.current.load()
	in := func(group string) bool { return group == privacy.Authenticated && !id.Anonymous() || id.In(group) }
	open := func(pattern string) bool { return now.vcs != nil && !now.usesCredential(pattern) }
	return slices.DeleteFunc(now.policy.Known(in, open), func(pattern string) bool { return !id.Covers(pattern) || !plainPattern(pattern) })
}

// plainPattern reports whether a pattern has no character that means something in single quotes. A
// backslash does in fish; the others cannot be in a pattern.
func plainPattern(pattern string) bool { return !strings.ContainsAny(pattern, "\\'\" ") }
