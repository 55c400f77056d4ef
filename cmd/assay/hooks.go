package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"
)

// maxHook is the largest body of a webhook that is read: what GitHub sends at most.
const maxHook = 25 << 20

// hook is what we read of a webhook, of whatever code host: where the repository
// is, under each name that one of them has for it.
type hook struct {
	Repository hookRepository
	Project    hookRepository // GitLab
}

type hookRepository struct {
	CloneURL   string `json:"clone_url"`    // GitHub, Gitea
	SSHURL     string `json:"ssh_url"`      // both
	HTMLURL    string `json:"html_url"`     // both
	GitHTTPURL string `json:"git_http_url"` // GitLab
	GitSSHURL  string `json:"git_ssh_url"`  // GitLab
	WebURL     string `json:"web_url"`      // GitLab
	Homepage   string // GitLab
}

func (h hook) urls() []string {
	var all []string
	for _, r := range []hookRepository{h.Repository, h.Project} {
		for _, u := range []string{r.CloneURL, r.SSHURL, r.HTMLURL, r.GitHTTPURL, r.GitSSHURL, r.WebURL, r.Homepage} {
			if u != "" {
				all = append(all, u)
			}
		}
	}
	return all
}

// serveHook is told by a code host that a repository has changed. Nothing that it
// says is believed but that: what is there is asked anew.
func (s *server) serveHook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxHook))
	if err != nil {
		writeText(w, http.StatusBadRequest, "the body did not arrive, or is too large\n")
		return
	}
	kind := chi.URLParam(r, "kind")
	if !signed(kind, s.hookSecret, r.Header, body) {
		s.log.Warn("webhook refused: its secret is not ours", "kind", kind, "client", s.remote(r))
		writeText(w, http.StatusForbidden, "refused: the secret of this hook is not the one in hook-secret-file\n")
		return
	}
	var h hook
	if err := json.Unmarshal(hookJSON(r, body), &h); err != nil || len(h.urls()) == 0 {
		writeText(w, http.StatusBadRequest, "no repository in it; send JSON, of the push and create events\n")
		return
	}
	s.proxy.Pushed(h.urls()...)
	s.log.Info("repository changed", "kind", kind, "repository", h.urls()[0])
	writeText(w, http.StatusOK, "ok\n")
}

// hookJSON returns the JSON of a body: GitHub can be told to send a form.
func hookJSON(r *http.Request, body []byte) []byte {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return body
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil
	}
	return []byte(form.Get("payload"))
}

// signed reports whether a webhook knows the secret. GitHub and Gitea sign the
// body with it, GitLab sends it along.
func signed(kind, secret string, header http.Header, body []byte) bool {
	switch kind {
	case "github":
		sum, ok := strings.CutPrefix(header.Get("X-Hub-Signature-256"), "sha256=")
		return ok && hmacIs(sum, secret, body)
	case "gitea":
		return hmacIs(header.Get("X-Gitea-Signature"), secret, body)
	case "gitlab":
		return subtle.ConstantTimeCompare([]byte(header.Get("X-Gitlab-Token")), []byte(secret)) == 1
	}
	return false
}

func hmacIs(text, secret string, body []byte) bool {
	sum, err := hex.DecodeString(text)
	if err != nil {
		return false
	}
	h := hmac.New(sha256.New, []byte(secret))
	h.Write(body)
	return hmac.Equal(sum, h.Sum(nil))
}
