package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/dirhash"
)

// A client is one go command with caches of its own, which goes through the load balancer.
type client struct {
	*modules
	dir   string
	part  *part
	build bool   // or download
	own   bool   // its checksum database is the own log, and not the public one
	needs []*mod // what the program imports
	all   []*mod // and what these need
}

// finished is what a phase leaves for the report.
type finished struct {
	Phase            string
	Commands, Failed int // Failed: runs of them that had to be repeated
	Seconds          int
	// Objects that the upstream has sent, and how many of them more than once, of modules and of their database.
	Files, FilesAgain, Proofs, ProofsAgain int
}

// wrong is what no go command may say, whatever happens to servers: a client would not try again.
var wrong = regexp.MustCompile(`SECURITY ERROR|checksum mismatch|404 Not Found|410 Gone|403 Forbidden|unknown revision|invalid|malformed|not a valid zip`)

// clients runs the go commands of a phase: quiet, when nothing is disturbed and the modules are new; cold, when
// they are new, too; warm, when other clients have read them.
func clients(ctx context.Context, m *modules, phase string) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(number("PHASE_MINUTES"))*time.Minute, errors.New("the phase takes too long"))
	defer cancel()
	if _, err := counts(ctx); err != nil { // counting begins
		return err
	}
	result := finished{Phase: phase}
	next := make(chan *client)
	var group sync.WaitGroup
	var mu sync.Mutex // guards failed and result
	var failed error
	for range number("JOBS") {
		group.Go(func() {
			for c := range next {
				again, err := c.run(ctx)
				mu.Lock()
				result.Failed += again
				if err != nil && failed == nil {
					failed = fmt.Errorf("%s: %w", filepath.Base(c.dir), err)
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	// The last phase goes on until all that can happen has happened.
	for i := 0; ctx.Err() == nil && (i < number("COMMANDS") || phase == "warm" && !exists(inWork("dealt.json"))); i++ {
		next <- m.client(phase, i)
		result.Commands++
	}
	close(next)
	group.Wait()
	if failed != nil {
		return failed
	}
	sent, err := counts(ctx)
	if err != nil {
		return err
	}
	m.count(sent, &result)
	result.Seconds = int(time.Since(begin).Seconds())
	log.Printf("%+v", result)
	return writeJSON("phase-"+phase, result)
}

// client is the i-th one of a phase. All kinds take turns.
func (m *modules) client(phase string, i int) *client {
	c := &client{modules: m, dir: inWork("clients", fmt.Sprintf("%s-%d", phase, i)), build: i%2 == 1, own: i/2%2 == 0}
	random := rand.New(rand.NewPCG(uint64(number("SEED")), uint64(1000+i)))
	c.part = m.parts["disturbed"]
	share := 4
	if phase == "quiet" { // all need all
		c.part, share = m.parts["quiet"], 1
	}
	for _, v := range c.part.public {
		if random.IntN(share) == 0 {
			c.needs = append(c.needs, v)
		}
	}
	for at := 0; at < len(c.part.private); at += versions {
		if random.IntN(3) == 0 {
			c.needs = append(c.needs, c.part.private[at+random.IntN(versions)])
		}
	}
	set := map[*mod]bool{}
	for _, v := range c.needs {
		v.withBelow(set)
	}
	c.all = slices.SortedFunc(maps.Keys(set), func(a, b *mod) int { return strings.Compare(a.Path, b.Path) })
	return c
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// run runs the go command until it succeeds, and checks all it has. It returns how often it has failed.
func (c *client) run(ctx context.Context) (failed int, err error) {
	if err := c.write(); err != nil {
		return 0, err
	}
	defer os.RemoveAll(c.dir)
	for {
		args := []string{"mod", "download"}
		if c.build {
			args = []string{"build", "-o", filepath.Join(c.dir, "program"), "."}
		}
		out, err := c.command(ctx, args...)
		if err == nil {
			return failed, c.check()
		}
		if ctx.Err() != nil {
			return failed, fmt.Errorf("%w, after %d failures; the last one: %s", context.Cause(ctx), failed, out)
		}
		if wrong.Match(out) {
			return failed, fmt.Errorf("go %s: %w\n%s", args[0], err, out)
		}
		failed++
		log.Printf("%s fails: %.400s", filepath.Base(c.dir), reason(out))
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// reason is the last error of a go command, without what the server adds for its user.
func reason(out []byte) string {
	var lines []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "go: ") {
			lines = nil
		}
		if !strings.HasPrefix(line, "request id: ") && !strings.HasPrefix(line, "try again") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}

// write writes a program that needs the modules.
func (c *client) write() error {
	var mod, code strings.Builder
	fmt.Fprintf(&mod, "module example.com/program\n\ngo 1.21\n")
	fmt.Fprintf(&code, "package main\n")
	for _, v := range c.all {
		fmt.Fprintf(&mod, "\nrequire %s %s\n", v.Path, v.Version.Version)
	}
	for i, v := range c.needs {
		fmt.Fprintf(&code, "\nimport m%d %q\n", i, v.Path)
	}
	fmt.Fprintf(&code, "\nfunc main() {\n\tsum := uint64(0)\n")
	for i := range c.needs {
		fmt.Fprintf(&code, "\tsum += m%d.Value()\n", i)
	}
	fmt.Fprintf(&code, "\tprintln(sum)\n}\n")
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(c.dir, "go.mod"), []byte(mod.String()), 0o644),
		os.WriteFile(filepath.Join(c.dir, "main.go"), []byte(code.String()), 0o644))
}

// command runs the go command with nothing of the user's own.
func (c *client) command(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(number("COMMAND_MINUTES"))*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.WaitDelay = 10 * time.Second // for compilers that it has started
	cmd.Dir = c.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "GOPATH=" + c.gopath(), "GOCACHE=" + os.Getenv("GOCACHE"), "GOENV=off",
		"GOPROXY=" + os.Getenv("BALANCER"), "GOFLAGS=-modcacherw -mod=mod", "GOTOOLCHAIN=local", "GOVCS=*:off", "CGO_ENABLED=0",
	}
	if c.own {
		cmd.Env = append(cmd.Env, "GOSUMDB="+os.Getenv("OWNKEY"))
	} else {
		cmd.Env = append(cmd.Env, "GOSUMDB="+c.world.GOSUMDB(), "GONOSUMDB=corp.example")
	}
	return cmd.CombinedOutput()
}

func (c *client) gopath() string { return filepath.Join(c.dir, "gopath") }

// check compares all that the client has with what it should have, and notes it.
func (c *client) check() error {
	files, err := c.files()
	if err != nil {
		return err
	}
	for _, v := range c.all {
		for _, suffix := range []string{".mod", ".zip"} {
			if path := v.path(suffix); files[path] == "" {
				return fmt.Errorf("the client does not have %s", path)
			}
		}
	}
	if c.build {
		value := uint64(0)
		for _, v := range c.needs {
			value += v.value
		}
		var out bytes.Buffer
		program := exec.Command(filepath.Join(c.dir, "program"))
		program.Stderr = &out // of println
		if err := program.Run(); err != nil {
			return err
		}
		if got, want := strings.TrimSpace(out.String()), fmt.Sprint(value); got != want {
			return fmt.Errorf("the program prints %s, and its modules say %s", got, want)
		}
	}
	return c.note(files)
}

// path is one of the files of a version in the protocol. No path of the test has capitals.
func (v *mod) path(suffix string) string { return v.Path + "/@v/" + v.Version.Version + suffix }

// files returns the hashes of all go.mod files and zips in the client's cache, which are as they should be.
func (c *client) files() (map[string]string, error) {
	private := map[string]*mod{}
	for _, v := range c.part.private {
		private[v.path(".mod")], private[v.path(".zip")] = v, v
	}
	cache := filepath.Join(c.gopath(), "pkg", "mod", "cache", "download")
	files := map[string]string{}
	err := filepath.WalkDir(cache, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".mod") && !strings.HasSuffix(name, ".zip") {
			return err
		}
		path, err := filepath.Rel(cache, name)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		switch v := private[path]; {
		case v == nil && !bytes.Equal(data, c.world.File(path)):
			return fmt.Errorf("%s is not that of the upstream", path)
		case v != nil && strings.HasSuffix(path, ".mod") && !bytes.Equal(data, v.files()[0].Data):
			return fmt.Errorf("%s is not that of the repository", path)
		case v != nil && strings.HasSuffix(path, ".zip"):
			got, err := dirhash.HashZip(name, dirhash.Hash1)
			if want := v.hash(); err != nil || got != want {
				return fmt.Errorf("%s has the hash %s, and the repository %s: %w", path, got, want, err)
			}
		}
		files[path] = fmt.Sprintf("%x", sha256.Sum256(data))
		return nil
	})
	return files, err
}

// hash is that of the zip of a private module.
func (v *mod) hash() string {
	content := map[string][]byte{}
	for _, f := range v.files() {
		content[v.Path+"@"+v.Version.Version+"/"+f.Name] = f.Data
	}
	hash, err := dirhash.Hash1(slices.Collect(maps.Keys(content)), func(name string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[name])), nil
	})
	if err != nil {
		log.Fatal(err) // of bytes in memory
	}
	return hash
}

// noted is what one client has: others must not have anything else, and no server may lose it.
type noted struct {
	Files map[string]string // hashes by path
	Sums  []string          // lines of go.sum that are pinned in the own log
	Head  []byte            // the newest head of the own log that it has seen, if any
}

func (c *client) note(files map[string]string) error {
	sums, err := os.ReadFile(filepath.Join(c.dir, "go.sum"))
	if err != nil {
		return err
	}
	n := noted{Files: files}
	for line := range strings.Lines(string(sums)) {
		if c.own || strings.HasPrefix(line, "corp.example/") {
			n.Sums = append(n.Sums, strings.TrimSuffix(line, "\n"))
		}
	}
	if c.own {
		name, _, _ := strings.Cut(os.Getenv("OWNKEY"), "+")
		n.Head, err = os.ReadFile(filepath.Join(c.gopath(), "pkg", "sumdb", name, "latest"))
		if err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join("noted", filepath.Base(c.dir)), n)
}

// readNoted returns what all clients have.
func readNoted() (all []noted, err error) {
	names, err := filepath.Glob(inWork("noted", "*.json"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("no client has noted what it has")
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var n noted
		if err := json.Unmarshal(data, &n); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, n)
	}
	return all, nil
}

func writeJSON(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(inWork(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(inWork(name+".json"), data, 0o644)
}

// counts returns how often the upstream was asked for each path since the last call.
func counts(ctx context.Context) (map[string]int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("UPSTREAM")+"/-/counts", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var counts map[string]int
	return counts, json.NewDecoder(resp.Body).Decode(&counts)
}

// count counts objects, which never change: no lists and newest heads.
func (m *modules) count(counts map[string]int, result *finished) {
	for _, path := range slices.Sorted(maps.Keys(counts)) {
		sent, again := &result.Files, &result.FilesAgain
		if proof, ok := strings.CutPrefix(path, "sumdb/"+m.world.Log.Name()+"/"); ok {
			if !strings.HasPrefix(proof, "lookup/") && !strings.HasPrefix(proof, "tile/") {
				continue
			}
			sent, again = &result.Proofs, &result.ProofsAgain
		} else if m.world.File(path) == nil || !strings.HasPrefix(path, "example.com/") || !strings.Contains(path, "/@v/v") {
			continue
		}
		*sent++
		if counts[path] > 1 {
			*again++
			log.Printf("requested %d times from the upstream: %s", counts[path], path)
		}
	}
}
