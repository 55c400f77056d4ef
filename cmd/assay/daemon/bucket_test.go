package daemon_test

import (
	"bytes"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/cmd/assay/daemon"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// The mark of an object store that does not keep conditions goes when it keeps them.
func TestConditionsComeBack(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server := s3test.Start(t)
	c := config.Config{Store: "s3://bucket/store?region=us-east-1&path-style=true&endpoint=" + server.URL}
	for _, conditional := range []bool{false, true} {
		server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: !conditional} })
		db, err := daemon.OpenBucket(t.Context(), c, s3.Options{Spool: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := daemon.PrepareBucket(t.Context(), db, true, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if err := daemon.CheckChange(t.Context(), db); (err == nil) != conditional {
			t.Errorf("conditions are kept: %v; CheckChange = %v", conditional, err)
		}
	}
}

// The start of a server says which lifecycle rules of the bucket would delete or archive its keys, and says so if it may
// not read them.
func TestLifecycleWarning(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	const rules = `<LifecycleConfiguration>
<Rule><ID>tidy</ID><Status>Enabled</Status><Filter></Filter><Expiration><Days>30</Days></Expiration></Rule>
<Rule><ID>cheap</ID><Status>Enabled</Status><Filter></Filter><Transition><Days>30</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition></Rule>
<Rule><ID>uploads</ID><Status>Enabled</Status><Filter></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
</LifecycleConfiguration>`
	const warning = "a lifecycle rule of the bucket deletes or archives what the store needs; remove it, or restrict it to other keys"
	const unread = "the rules of the bucket that delete objects cannot be read; make sure that none is about the store"
	for name, c := range map[string]struct {
		fault s3test.Fault
		lines []string // each the level, the message and what follows
	}{
		"rules": {s3test.Fault{Instead: rules}, []string{
			`level=WARN msg="` + warning + `" rule="\"tidy\", for keys that begin with \"\": it deletes them"`,
			`level=WARN msg="` + warning + `" rule="\"cheap\", for keys that begin with \"\": it moves them to an archive"`,
		}},
		"none":   {s3test.Fault{}, nil},
		"denied": {s3test.Fault{Before: http.StatusForbidden, Code: "AccessDenied"}, []string{`level=INFO msg="` + unread + `" err=`}},
	} {
		server := s3test.Start(t)
		server.Fail(func(r s3test.Request) s3test.Fault {
			if r.Op == "RULES" {
				return c.fault
			}
			return s3test.Fault{}
		})
		db, err := daemon.OpenBucket(t.Context(), config.Config{Store: "s3://bucket/store?path-style=true&endpoint=" + server.URL}, s3.Options{Spool: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var out bytes.Buffer
		if _, err := daemon.PrepareBucket(t.Context(), db, false, slog.New(slog.NewTextHandler(&out, nil))); err != nil {
			t.Fatal(err)
		}
		for _, line := range c.lines {
			if !strings.Contains(out.String(), line) {
				t.Errorf("%s: the log is\n%s\nwant %s", name, &out, line)
			}
		}
		if n := strings.Count(out.String(), "rule"); n != 2*len(c.lines) && name != "denied" {
			t.Errorf("%s: the log is\n%s\nwant %d lines about rules", name, &out, len(c.lines))
		}
	}
}

// A server refuses an object store by its name, and one whose authority it does not know; with --ca-file it uses it.
func TestBucketWithOwnAuthority(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server, ca := s3test.StartTLS(t)
	server.Name = "Liar/1.2"
	c := config.Config{Store: "s3://bucket/store?path-style=true&endpoint=" + server.URL}
	prepare := func() error {
		db, err := daemon.OpenBucket(t.Context(), c, s3.Options{Spool: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		_, err = daemon.PrepareBucket(t.Context(), db, false, slog.New(slog.DiscardHandler))
		return err
	}
	if err := prepare(); err == nil || !strings.Contains(err.Error(), "certificate") || server.Requests() > 0 {
		t.Errorf("without the authority: %v after %d requests", err, server.Requests())
	}
	c.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(c.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := prepare(); err != nil {
		t.Errorf("with the authority: %v", err)
	}
	server.Fail(func(s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: true} })
	const says = `the object store ("Liar/1.2") cannot be shared by several replicas: `
	if err := prepare(); err == nil || !strings.HasPrefix(err.Error(), says) {
		t.Errorf("a store without conditions: %v, want %q", err, says)
	}
}

// While the object store refuses everything, a client has its error at once, and not only when its time has passed. The
// log has the reason.
func TestBucketThatRefuses(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server, world := s3test.Start(t), proxytest.New(t)
	paths := world.AddBig(2, 2<<20)
	p := serveIn(t, "--data", t.TempDir(), "--store", "s3://bucket/store?path-style=true&endpoint="+server.URL,
		"--upstream", world.URL("ok"), "--sumdb", world.GOSUMDB(), "--answer-timeout", "1h")
	client := http.Client{Timeout: time.Minute} // of a busy machine
	get := func(path string) (status int, body string) {
		t.Helper()
		resp, err := client.Get(p.url + "/" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	if status, body := get(paths[0]); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	server.Fail(func(s3test.Request) s3test.Fault {
		return s3test.Fault{Before: http.StatusForbidden, Code: "AccessDenied"}
	})
	module, _, _ := strings.Cut(paths[1], "/@v/")
	for _, path := range []string{
		paths[1], strings.TrimSuffix(paths[1], "zip") + "info", strings.TrimSuffix(paths[1], "zip") + "mod",
		module + "/@v/list", module + "/@latest", "sumdb/" + proxytest.Database + "/lookup/" + module + "@v1.0.0",
	} {
		if status, body := get(path); status != http.StatusServiceUnavailable || !strings.Contains(body, "object store") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if log := p.log.String(); !strings.Contains(log, "AccessDenied") || !strings.Contains(log, "the credentials need s3:ListBucket") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}
