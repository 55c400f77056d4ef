package main_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// The guard of the own log is in another bucket, with credentials of its own. A server notes its tree there, and does not
// start if the object store of the guard keeps no conditions: it could confirm two trees.
func TestGuardInBucket(t *testing.T) {
	t.Parallel()
	p := newPrivateServer(t)
	store, guards, key := bucketURL(s3test.Start(t).URL), s3test.Start(t), filepath.Join(t.TempDir(), "key")
	credentials := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(credentials, []byte("[guard]\naws_access_key_id = guard\naws_secret_access_key = guardsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(p.env, append(bucketEnv, "AWS_SHARED_CREDENTIALS_FILE="+credentials)...)
	guard := "s3://bucket/guard?path-style=true&region=us-east-1&profile=guard&endpoint=" + guards.URL
	create := assay(p.program, "log", "create", "--log-key", key, "--log-name", "sum.corp.example", "--store", store, "--log-guard", guard, "--data", t.TempDir())
	create.Env = append(create.Env, env...)
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	args := func() []string {
		return []string{"--data", t.TempDir(), "--store", store, "--log-key", key, "--log-guard", guard, "--private", vcstest.PageHost,
			"--upstream", argument(p.args, "--upstream"), "--sumdb", argument(p.args, "--sumdb"), "--ca-file", argument(p.args, "--ca-file")}
	}
	url, _ := startProcessIn(t, env, p.program, args()...)
	before := strings.Join(guards.Keys("guard/"), " ")
	m := p.versions[0]
	if status, body := assaytest.Fetch(t, url+"/"+m.Path+"/@v/"+m.Version+".mod"); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	if before == "" || len(guards.Keys("guard/")) == 0 {
		t.Errorf("the guard has %q, and after a pin %v", before, guards.Keys("guard/"))
	}
	guards.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: true} })
	lied := assay(p.program, append([]string{"serve", "--listen", "127.0.0.1:0"}, args()...)...)
	lied.Env = append(lied.Env, env...)
	if out, err := lied.CombinedOutput(); err == nil || !strings.Contains(string(out), "log-guard: ") || !strings.Contains(string(out), "keeps conditions") {
		t.Errorf("a server whose guard lies: %v\n%s", err, out)
	}
}
