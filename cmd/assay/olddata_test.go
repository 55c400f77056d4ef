package main_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/assaytest"
	"github.com/assay-proxy/assay/proxy/proxytest"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

// makeData makes the test write new files into testdata/data. Before a change of the data
// directory's format, run
//
//	go test -run '^TestMakeDataDirs$' ./cmd/assay -make-data 2026-11
var makeData = flag.String("make-data", "", "the name of the program that TestMakeDataDirs makes data directories with")

// dataDirs has data directories of earlier programs. Each archive contains the directory, the
// arguments with which it was made, one a line, and the answers of that program: the path, the
// status, the SHA-256.
const dataDirs = "testdata/data"

// TestDataDirs opens the data directories of earlier programs. All answers that they could give
// without an upstream are the same, and the stored objects pass verification.
func TestDataDirs(t *testing.T) {
	archives, err := filepath.Glob(filepath.Join(dataDirs, "*.tar.gz"))
	if err != nil || len(archives) < 5 {
		t.Fatalf("%d archives, %v", len(archives), err)
	}
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tar.gz"), func(t *testing.T) {
			t.Parallel()
			d := openOldData(t, archive)
			args := append(strings.Fields(d.read("args")), "--upstream", "off")
			dir := d.dir
			d.compare(append(args, "--data", filepath.Join(dir, "data")))
			d.run("verify")
			d.run("backup", filepath.Join(dir, "backup"))
			restored := filepath.Join(dir, "restored")
			if out, err := assay(d.program, "restore", filepath.Join(dir, "backup"), "--data", restored).CombinedOutput(); err != nil {
				t.Fatalf("restore: %v\n%s", err, out)
			}
			d.compare(append(args, "--data", restored, "--read-only"))
			if slices.Contains(args, "--private") {
				d.run("log", "adopt", "--no-client-has-seen-more") // the directory is a copy
				d.run("log", "check")
			}
		})
	}
}

// A data directory of an earlier program is opened with a store in a bucket: the server says that it does not use the store
// in the directory. What was copied into the bucket is served as before.
func TestOldDataWithBucket(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"2026-11-public", "2027-01-private"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openOldData(t, filepath.Join(dataDirs, name+".tar.gz"))
			data, bucket := filepath.Join(d.dir, "data"), bucketURL(s3test.Start(t).URL)
			args := append(strings.Fields(d.read("args")), "--upstream", "off", "--data", data)
			text := d.serveOnce(append(args[:len(args):len(args)], "--store", bucket, "--single-replica"))
			bucket = strings.Replace(bucket, "/store?", "/other?", 1) // a copy needs a store that no server has used
			if !strings.Contains(text, "has a store of its own, which is not used") || !strings.Contains(text, "assay store copy") {
				t.Errorf("the log does not say that the store in the directory is not used:\n%s", text)
			}
			cp := func() (string, error) {
				cmd := assay(d.program, "store", "copy", data, bucket)
				cmd.Env = append(cmd.Env, bucketEnv...)
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			if name == "2026-11-public" {
				if out, err := cp(); err == nil || !strings.Contains(out, "start assay serve once on it") {
					t.Errorf("a copy of an earlier layout: %v\n%s", err, out)
				}
			}
			// A server without the bucket refuses the directory with its copies: the setting may be forgotten.
			cmd := assay(d.program, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "name the bucket with --store") {
				t.Errorf("serve without the bucket: %v\n%s", err, out)
			}
			if err := os.RemoveAll(filepath.Join(data, "tier")); err != nil {
				t.Fatal(err)
			}
			d.serveOnce(args) // this moves its keys
			if out, err := cp(); err != nil {
				t.Fatalf("store copy: %v\n%s", err, out)
			}
			for _, file := range []string{"meta.db", "blobs.db"} {
				if err := os.Remove(filepath.Join(data, file)); err != nil {
					t.Fatal(err)
				}
			}
			d.compare(append(args[:len(args):len(args)], "--store", bucket, "--single-replica"))
		})
	}
}

// serveOnce starts a server, kills it, and returns its log.
func (d *oldData) serveOnce(args []string) string {
	d.t.Helper()
	cmd := assay(d.program, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(cmd.Env, bucketEnv...)
	var log assaytest.Output
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // killed
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
	}()
	for {
		text := log.String()
		if strings.Contains(text, "Assay serves") && strings.Contains(text, "assay starts") {
			return text // it logs its warnings before it says that it serves
		}
		select {
		case <-ended:
			d.t.Fatalf("serve %q ended:\n%s", args, log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// oldData is a data directory, with the expected answers beside it.
type oldData struct {
	t       *testing.T
	program string
	dir     string
}

// openOldData unpacks an archive.
func openOldData(t *testing.T, archive string) *oldData {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unpack(archive, dir); err != nil {
		t.Fatal(err)
	}
	return &oldData{t: t, program: program, dir: dir}
}

func (d *oldData) read(name string) string {
	d.t.Helper()
	data, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(data)
}

// compare starts a server with args, and compares its answers with the expected ones.
func (d *oldData) compare(args []string) {
	d.t.Helper()
	url, cmd := startProcessIn(d.t, bucketEnv, d.program, args...)
	answers := strings.Split(strings.TrimSpace(d.read("answers")), "\n")
	if len(answers) < 10 {
		d.t.Errorf("only %d answers are compared", len(answers))
	}
	for _, want := range answers {
		path, _, _ := strings.Cut(want, " ")
		if got := d.answer(url, path); got != want {
			d.t.Errorf("now  %s\nthen %s", got, want)
		}
	}
	kill(d.t, cmd)
}

// run runs a command of the program on the directory.
func (d *oldData) run(args ...string) {
	d.t.Helper()
	out, err := assay(d.program, append(args, "--data", filepath.Join(d.dir, "data"))...).CombinedOutput()
	if err != nil {
		d.t.Errorf("%v: %v\n%s", args, err, out)
	}
}

// answer returns the answer from stored objects only.
func (d *oldData) answer(url, path string) string {
	d.t.Helper()
	resp, err := http.Get(url + "/cached-only/" + path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	if resp.StatusCode != http.StatusOK {
		sum = "-" // the text of an error may change
	}
	return fmt.Sprintf("%s %d %s", path, resp.StatusCode, sum)
}

// TestMakeDataDirs makes the archives of TestDataDirs.
func TestMakeDataDirs(t *testing.T) {
	if *makeData == "" {
		t.Skip("makes files that are kept; see -make-data")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"public", "unproved", "private", "unified", "killed"} {
		t.Run(kind, func(t *testing.T) {
			d := &oldData{t: t, program: program, dir: t.TempDir()}
			d.make(kind)
			if err := pack(d.dir, filepath.Join(dataDirs, *makeData+"-"+kind+".tar.gz")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// make makes a data directory of a kind, and records the answers from it.
func (d *oldData) make(kind string) {
	code := vcstest.New(d.t)
	world, large := oldWorld(d.t, kind)
	modules := []string{"example.com/!upper/@v/v1.0.0", "example.com/greet/@v/v1.0.0", "example.com/greet/@v/v1.1.0", "example.com/greet/@v/v2.0.0+incompatible"}
	paths := slices.Concat(large, []string{"example.com/greet/@v/list", "example.com/greet/@latest", "example.com/greet/@v/master.info"})
	args := []string{"--sumdb", world.GOSUMDB()}
	database := proxytest.Database
	switch kind {
	case "unproved":
		args = []string{"--sumdb", "off"}
	case "private", "unified":
		repo := code.Module("lib")
		for _, version := range []string{"v1.0.0", "v1.1.0"} {
			repo.Commit("-- go.mod --\nmodule corp.example/lib\n-- lib.go --\npackage lib\n\nconst Version = \"" + version + "\"\n")
			repo.Tag(version)
			modules = append(modules, "corp.example/lib/@v/"+version)
		}
		paths = append(paths, "corp.example/lib/@v/list", "corp.example/lib/@latest")
		args = append(args, "--private", "corp.example", "--log-name", "sum.corp.example")
		if kind == "unified" {
			args, database = append(args, "--unified"), "sum.corp.example"
		}
	}
	for _, m := range modules {
		paths = append(paths, m+".info", m+".mod", m+".zip")
		if module, version, _ := strings.Cut(m, "/@v/"); kind != "unproved" && !(kind == "private" && strings.HasPrefix(m, "corp.example")) {
			paths = append(paths, "sumdb/"+database+"/lookup/"+module+"@"+version)
		}
	}
	if kind != "unproved" {
		paths = append(paths, "sumdb/"+database+"/supported", "sumdb/"+database+"/latest")
	}
	paths = append(paths, "example.com/absent/@v/v1.0.0.mod")

	env := []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + d.t.TempDir(), "HTTPS_PROXY=" + code.Proxy()}
	serve := func(fault string) (url string, kill func()) {
		more := slices.Concat(args, []string{"--data", filepath.Join(d.dir, "data"), "--upstream", world.URL(fault), "--ca-file", code.CAFile()})
		url, cmd := startProcessIn(d.t, env, d.program, more...)
		return url, func() { killProcess(d.t, cmd.Process.Kill(), cmd.Wait) }
	}
	url, end := serve("ok")
	for _, path := range paths {
		if kind == "killed" && slices.Contains(large, path) {
			continue
		}
		if status, body := assaytest.Fetch(d.t, url+"/"+path); status != http.StatusOK && !strings.Contains(path, "absent") && !strings.Contains(path, "master") {
			d.t.Errorf("%s: %d %s", path, status, body)
		}
	}
	var answers []string
	for _, path := range paths {
		answers = append(answers, d.answer(url, path))
	}
	end()
	if kind == "killed" {
		d.killInFill(serve, large, world)
	}
	d.write("args", strings.Join(args, "\n"))
	d.write("answers", strings.Join(answers, "\n"))
}

// oldWorld has the public modules of the data directories of a kind, and the paths of its large zips.
func oldWorld(t *testing.T, kind string) (world *proxytest.World, large []string) {
	world = proxytest.New(t)
	world.Add("-- example.com/Upper@v1.0.0/go.mod --\nmodule example.com/Upper\n" +
		"-- example.com/greet@v1.0.0/go.mod --\nmodule example.com/greet\n" +
		"-- example.com/greet@v1.1.0/go.mod --\nmodule example.com/greet\n-- example.com/greet@v1.1.0/greet.go --\npackage greet\n" +
		"-- example.com/greet@v2.0.0+incompatible/x.go --\npackage x\n")
	size := 40 << 10 // large enough for an object of its own
	if kind == "public" || kind == "killed" {
		size = 300 << 10 // and in more than one chunk
	}
	return world, world.AddBig(2, size)
}

// killInFill kills the program while zips arrive.
func (d *oldData) killInFill(serve func(fault string) (string, func()), zips []string, world *proxytest.World) {
	url, end := serve("gated")
	for _, path := range zips {
		go func() { // it ends with the program
			if resp, err := http.Get(url + "/" + path); err == nil {
				resp.Body.Close()
			}
		}()
	}
	assaytest.WaitFor(d.t, func() bool {
		return !slices.ContainsFunc(zips, func(path string) bool { return world.Count(path) == 0 })
	})
	time.Sleep(100 * time.Millisecond) // so that some bytes have arrived, most of the time
	end()
}

func killProcess(t testing.TB, err error, wait func() error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	_ = wait() // killed
}

func (d *oldData) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text+"\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// pack writes the tree at dir into an archive, without its sockets, which are removed.
func pack(dir, archive string) error {
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSocket == 0 {
			return err
		}
		return os.Remove(path)
	}); err != nil {
		return err
	}
	var buf bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(compressed)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		return err
	}
	return os.WriteFile(archive, buf.Bytes(), 0o644)
}

// unpack makes the tree of an archive at dir.
func unpack(archive, dir string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	for r := tar.NewReader(content); ; {
		header, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Join(dir, filepath.FromSlash(header.Name))
		if header.FileInfo().IsDir() {
			if err := os.MkdirAll(name, 0o700); err != nil {
				return err
			}
			continue
		}
		data, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(name, data, header.FileInfo().Mode().Perm()&^fs.FileMode(0o077))
		}
		if err != nil {
			return err
		}
	}
}
