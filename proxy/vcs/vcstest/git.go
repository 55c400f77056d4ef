package vcstest

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
)

// gitHost answers for repositories as git http-backend does (gitprotocol-http(5)), but that
// it runs one program where that is three.
type gitHost struct {
	repos string // directory

	mu        sync.Mutex
	renamed   map[string]string // new names by old ones
	greetings map[string][]byte // of git's protocol, version 2, by directory of the repository
}

func newGitHost(repos string) *gitHost {
	return &gitHost{repos: repos, renamed: map[string]string{}, greetings: map[string][]byte{}}
}

func (g *gitHost) rename(from, to string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renamed[from] = to
}

// redirect answers for a repository that was renamed.
func (g *gitHost) redirect(rw http.ResponseWriter, r *http.Request) bool {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	g.mu.Lock()
	to := g.renamed[strings.TrimSuffix(name, ".git")]
	g.mu.Unlock()
	if to == "" {
		return false
	}
	http.Redirect(rw, r, "/"+to+".git/"+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
	return true
}

func (g *gitHost) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	name, greets := strings.CutSuffix(r.URL.Path, "/info/refs")
	name, asks := strings.CutSuffix(name, "/git-upload-pack")
	dir, ok := g.dir(name)
	switch {
	case !ok:
		http.NotFound(rw, r)
	case greets && r.Method == http.MethodGet && r.URL.Query().Get("service") == "git-upload-pack":
		g.greet(rw, r, dir)
	case asks && r.Method == http.MethodPost:
		answer(rw, r, dir)
	default:
		http.NotFound(rw, r)
	}
}

// dir returns the directory of a repository, whose .git may be left out.
func (g *gitHost) dir(name string) (dir string, ok bool) {
	dir = filepath.Join(g.repos, filepath.FromSlash(path.Clean("/"+name)))
	for _, dir := range []string{dir, dir + ".git"} {
		if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
			return dir, true
		}
	}
	return "", false
}

// greet answers what the host can do and, in the protocol before version 2, which
// references there are. The first is always the same.
func (g *gitHost) greet(rw http.ResponseWriter, r *http.Request, dir string) {
	second := strings.Contains(r.Header.Get("Git-Protocol"), "version=2")
	g.mu.Lock()
	greeting := g.greetings[dir]
	g.mu.Unlock()
	if !second || greeting == nil {
		var out bytes.Buffer
		if err := uploadPack(r, dir, nil, &out, "--advertise-refs"); err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		greeting = out.Bytes()
	}
	rw.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
	rw.Header().Set("Cache-Control", "no-cache")
	if second {
		g.mu.Lock()
		g.greetings[dir] = greeting
		g.mu.Unlock()
	} else {
		_, _ = io.WriteString(rw, "001e# service=git-upload-pack\n0000")
	}
	_, _ = rw.Write(greeting)
}

// answer answers a question about a repository.
func answer(rw http.ResponseWriter, r *http.Request, dir string) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	rw.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	rw.Header().Set("Cache-Control", "no-cache")
	_ = uploadPack(r, dir, body, rw) // what went wrong is in the answer, or that is short
}

// uploadPack runs git upload-pack for a request. Of our environment, which a test may have
// made for the program under test, it sees no more than it needs.
func uploadPack(r *http.Request, dir string, in io.Reader, out io.Writer, flags ...string) error {
	args := append([]string{"upload-pack", "--stateless-rpc"}, flags...)
	cmd := exec.CommandContext(r.Context(), "git", append(args, dir)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_PROTOCOL=" + r.Header.Get("Git-Protocol")}
	cmd.Stdin, cmd.Stdout = in, out
	return cmd.Run()
}
