package daemon

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/go-chi/chi/v5"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// maxHook is the largest body of a webhook that is read: the limit of GitHub.
const maxHook = 25 << 20

// maxHooks is how many webhooks are read at the same time. Only a complete body shows whether a
// webhook is from a code host, so all of these bodies are in memory.
const maxHooks = 8

// smallHook is the largest body that all of them may have at the same time. Larger ones are rare,
// and are read one at a time.
const smallHook = 1 << 20

// hook contains the fields that are read from a webhook of any code host: the address of the
// repository, under each name that one of the hosts has for it.
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

// webhooks serves the webhooks of code hosts.
type webhooks struct {
	secret  atomic.Pointer[string]
	reading chan struct{}  // one place for each webhook that is being read
	large   chan struct{}  // the place for one large webhook
	memory  *memory.Budget // their bodies count as fetched objects
	clients *clients
	log     *slog.Logger
	pushed  func(ctx context.Context, urls ...string) error // called with the URLs of changed repositories; fails if other replicas are not told
}

func newWebhooks(secret string, budget *memory.Budget, from *clients, log *slog.Logger, pushed func(context.Context, ...string) error) *webhooks {
	h := &webhooks{reading: make(chan struct{}, maxHooks), large: make(chan struct{}, 1), memory: budget, clients: from, log: log, pushed: pushed}
	h.use(secret)
	return h
}

// use makes the webhooks accept another secret. Without webhooks it does nothing.
func (h *webhooks) use(secret string) {
	if h != nil {
		h.secret.Store(&secret)
	}
}

// ServeHTTP handles the message of a code host that a repository has changed. It uses nothing else
// from it: the repository itself is fetched again.
func (h *webhooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := chi.URLParam(r, "kind")
	verify, ok := verifier(kind, *h.secret.Load(), r.Header)
	if !ok {
		h.refuse(w, r, kind)
		return
	}
	select {
	case h.reading <- struct{}{}:
		defer func() { <-h.reading }()
	default:
		busyWithHooks(w)
		return
	}
	held := h.memory.Hold()
	held.Own(access.SiteOf(h.clients.address(r))) // the secret can be checked only when the body is complete
	defer held.Free()
	body, err := h.read(r, http.MaxBytesReader(w, r.Body, maxHook), &held)
	if errors.Is(err, errBusy) || errors.Is(err, memory.ErrFull) {
		busyWithHooks(w)
		return
	}
	if err != nil {
		writeText(w, http.StatusBadRequest, "the body is incomplete or too large\n")
		return
	}
	if !verify(body) {
		h.refuse(w, r, kind)
		return
	}
	text, err := hookJSON(r, body, &held)
	if err != nil {
		busyWithHooks(w)
		return
	}
	var sent hook
	err = json.Unmarshal(text, &sent)
	if err == nil && len(sent.urls()) == 0 && r.Header.Get("X-GitHub-Event") == "ping" { // a ping of an organisation
		writeText(w, http.StatusOK, "ok\n")
		return
	}
	if err != nil || len(sent.urls()) == 0 {
		writeText(w, http.StatusBadRequest, "the body names no repository; send JSON, for push and create events\n")
		return
	}
	if err := h.pushed(r.Context(), sent.urls()...); err != nil {
		h.log.Error("other replicas cannot be told that a repository has changed; the code host should send the webhook again", "kind", kind, "repository", vcs.CanonicalRepository(sent.urls()[0]), "err", err)
		w.Header().Set("Retry-After", "5")
		writeText(w, http.StatusServiceUnavailable, "the store does not answer, so other replicas do not know of it; send it again\n")
		return
	}
	h.log.Info("repository changed", "kind", kind, "repository", vcs.CanonicalRepository(sent.urls()[0])) // without a password
	writeText(w, http.StatusOK, "ok\n")
}

// errBusy means that another large webhook is being read.
var errBusy = errors.New("busy")

// read reads the body of a webhook into memory of held.
func (h *webhooks) read(r *http.Request, in io.Reader, held *memory.Hold) ([]byte, error) {
	body, err := held.Read(r.Context(), in, min(r.ContentLength, smallHook), smallHook)
	if err != nil || len(body) <= smallHook {
		return body, err
	}
	select {
	case h.large <- struct{}{}:
		defer func() { <-h.large }()
	default:
		return nil, errBusy
	}
	return held.Read(r.Context(), io.MultiReader(bytes.NewReader(body), in), r.ContentLength, maxHook)
}

func busyWithHooks(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "5")
	writeText(w, http.StatusServiceUnavailable, "busy: too many webhooks; send it again\n")
}

func (h *webhooks) refuse(w http.ResponseWriter, r *http.Request, kind string) {
	h.log.Warn("webhook refused: wrong secret", "kind", kind, "client", h.clients.address(r))
	writeText(w, http.StatusForbidden, "refused: the secret of this hook differs from the one in hook-secret-file\n")
}

// hookJSON returns the JSON of a body: GitHub can be configured to send a form. Parsing that takes
// several times the memory of the body; the error is memory.ErrFull.
func hookJSON(r *http.Request, body []byte, held *memory.Hold) ([]byte, error) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return body, nil
	}
	if err := held.Try(4 * int64(len(body))); err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, nil // fails later: it is not JSON
	}
	return []byte(form.Get("payload")), nil
}

// verifier returns a function that reports whether the sender of a body knows the secret, and false
// if the header shows that it does not. GitHub and Gitea sign the body with the secret; GitLab
// sends the secret.
func verifier(kind, secret string, header http.Header) (verify func(body []byte) bool, ok bool) {
	switch kind {
	case "github":
		sum, ok := strings.CutPrefix(header.Get("X-Hub-Signature-256"), "sha256=")
		if !ok {
			return nil, false
		}
		return hmacVerifier(sum, secret)
	case "gitea":
		return hmacVerifier(header.Get("X-Gitea-Signature"), secret)
	case "gitlab":
		if subtle.ConstantTimeCompare([]byte(header.Get("X-Gitlab-Token")), []byte(secret)) == 1 {
			return func([]byte) bool { return true }, true
		}
	}
	return nil, false
}

func hmacVerifier(text, secret string) (verify func(body []byte) bool, ok bool) {
	sum, err := hex.DecodeString(text)
	if err != nil || len(sum) != sha256.Size {
		return nil, false
	}
	return func(body []byte) bool {
		h := hmac.New(sha256.New, []byte(secret))
		h.Write(body)
		return hmac.Equal(sum, h.Sum(nil))
	}, true
}
