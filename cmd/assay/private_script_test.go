package main_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

type codeKey struct{}

// codeHosts are the code hosts of a script.
type codeHosts struct {
	world *vcstest.World
	repos map[string]*vcstest.Repo
}

// codeCmd changes the code hosts of the script, corp.example and git.corp.example. The first call
// starts them. The server reaches them through a proxy, and trusts $CODECA.
func codeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: code what [arguments]")
	}
	c := ts.Value(codeKey{}).(*codeHosts)
	if c.world == nil {
		c.start(ts)
	}
	switch what, rest := args[0], args[1:]; {
	case what == "module" && len(rest) > 1: // name, tag=directory for each version
		var versions []string
		for _, version := range rest[1:] {
			tag, dir, _ := strings.Cut(version, "=")
			versions = append(versions, tag+"\n"+readTree(ts, dir))
		}
		c.repos[rest[0]] = c.world.Module(rest[0], versions...)
	case what == "commit" && len(rest) == 2:
		c.repos[rest[0]].Commit(readTree(ts, rest[1]))
	case what == "tag" && len(rest) == 2:
		c.repos[rest[0]].Tag(rest[1])
	case what == "vanish" && len(rest) == 1:
		c.repos[rest[0]].Remove()
	case what == "page" && len(rest) == 2:
		c.world.Page(rest[0], rest[1])
	case what == "password" && len(rest) == 2:
		c.world.Password(rest[0], rest[1])
	case what == "status" && len(rest) == 1:
		status, err := strconv.Atoi(rest[0])
		ts.Check(err)
		c.world.Status(status)
	case what == "unasked" && len(rest) <= 1: // by a host, or all of them
		for _, asked := range c.world.Requests() {
			if strings.Contains(asked, " "+strings.Join(rest, "")) {
				ts.Fatalf("the code hosts were asked for %q", asked)
			}
		}
	case what == "forget" && len(rest) == 0:
		c.world.Requests()
	default:
		ts.Fatalf("no such thing to do with code: %q", args)
	}
}

func (c *codeHosts) start(ts *testscript.TestScript) {
	c.world, c.repos = vcstest.New(ts.Value(testKey{}).(testing.TB)), map[string]*vcstest.Repo{}
	ts.Setenv("CODECA", c.world.CAFile())
	ts.Setenv("SERVER_HTTPS_PROXY", c.world.Proxy())
}

// readTree returns the files of a directory as an archive.
func readTree(ts *testscript.TestScript, dir string) string {
	var archive txtar.Archive
	root := ts.MkAbs(dir)
	ts.Check(filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		archive.Files = append(archive.Files, txtar.File{Name: filepath.ToSlash(relative), Data: data})
		return err
	}))
	return string(txtar.Format(&archive))
}

// ownKeyCmd sets OWNKEY to the key of the server's own log.
func ownKeyCmd(ts *testscript.TestScript, neg bool, args []string) {
	key, err := os.ReadFile(filepath.Join(dataDir(ts), "log", "key.pub"))
	ts.Check(err)
	ts.Setenv("OWNKEY", strings.TrimSpace(string(key)))
}

// certifyCmd writes a self-signed certificate for localhost, and its key, and makes the go command
// trust it.
func certifyCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certify certfile keyfile")
	}
	ts.Check(assaytest.WriteCertificate(ts.MkAbs(args[0]), ts.MkAbs(args[1]), "localhost"))
	ts.Setenv("SSL_CERT_FILE", ts.MkAbs(args[0]))
}

// revokeCmd revokes the tokens of a name, with the program, and waits until a server has read that.
func revokeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: revoke name")
	}
	data, err := os.ReadFile(filepath.Join(dataDir(ts), "tokens"))
	ts.Check(err)
	revoked := false
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == args[0] {
			ts.Check(ts.Exec("assay", "token", "revoke", fields[0], "--data", dataDir(ts)))
			revoked = true
		}
	}
	if !revoked {
		ts.Fatalf("there is no token of %s", args[0])
	}
	time.Sleep(2 * time.Second) // a running server reads a changed file within a second
}

// hookCmd sends a push webhook like a code host, and checks the status.
func hookCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: hook status github|gitlab|gitea secret url")
	}
	kind, secret := args[1], args[2]
	body := fmt.Appendf(nil, `{"ref":"refs/tags/v1.1.0","repository":{"clone_url":%q}}`, args[3])
	if kind == "gitlab" {
		body = fmt.Appendf(nil, `{"object_kind":"tag_push","project":{"git_http_url":%q},"repository":{}}`, args[3])
	}
	r, err := http.NewRequest(http.MethodPost, ts.Getenv("ASSAY")+"/-/hooks/"+kind, bytes.NewReader(body))
	ts.Check(err)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	sum := hex.EncodeToString(mac.Sum(nil))
	switch kind {
	case "github":
		r.Header.Set("X-Hub-Signature-256", "sha256="+sum)
	case "gitlab":
		r.Header.Set("X-Gitlab-Token", secret)
	case "gitea":
		r.Header.Set("X-Gitea-Signature", sum)
	}
	resp, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if strconv.Itoa(resp.StatusCode) != args[0] {
		ts.Fatalf("webhook: %s %s, want %s", resp.Status, text, args[0])
	}
}
