package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-proxy/assay/access"
	"github.com/assay-proxy/assay/proxy/vcs/vcstest"
)

// company is code hosts with one repository of 200 MB, and the settings with which a server reaches
// them.
type company struct {
	*vcstest.World
	host  *host
	repo  *vcstest.Repo
	tree  string   // work tree of the repository
	env   []string // for a server
	count int      // commits after the history
}

const (
	privateModule  = "corp.example/big"
	historyCommits = 20
	historySize    = 10 << 20 // bytes that each commit of the history replaces
)

// newCompany creates the hosts. The history is random bytes, which do not compress; only a few
// small files are left at its end, as in a repository that was cleaned up.
func (b *bench) newCompany() (c *company, err error) {
	c = &company{host: &host{dir: b.dir}}
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(failed)
			if !ok {
				panic(p)
			}
			err = f
		}
	}()
	if _, err := exec.LookPath("git"); err != nil {
		return nil, err
	}
	c.World = vcstest.New(c.host)
	c.repo = c.Module("big", "v1.0.0\n-- go.mod --\nmodule "+privateModule+"\n\ngo 1.20\n-- big.go --\npackage big\n")
	c.tree = c.repo.Git("rev-parse", "--show-toplevel")
	data := make([]byte, historySize)
	for range historyCommits {
		if _, err := rand.Read(data); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(c.tree, "data.bin"), data, 0o644); err != nil {
			return nil, err
		}
		c.repo.Commit("")
	}
	if err := os.Remove(filepath.Join(c.tree, "data.bin")); err != nil {
		return nil, err
	}
	c.repo.Commit("")
	c.repo.Git("repack", "-adq") // as a code host stores it
	// The settings for the go commands of both servers: git reads them from the home directory, the
	// go command from the environment.
	home, err := b.newDir()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("[http]\n\tsslCAInfo = %s\n", c.CAFile())
	c.env = []string{"HOME=" + home, "HTTPS_PROXY=" + c.Proxy()}
	return c, os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o644)
}

// commit makes a small commit and returns it.
func (c *company) commit() string {
	c.count++
	return c.repo.Commit(fmt.Sprintf("-- version.go --\npackage big\n\nconst Version = %d\n", c.count))
}

// startOurs starts assay with empty directories.
func (b *bench) startOurs(c *company, args ...string) (*process, error) {
	data, err := b.newDir()
	if err != nil {
		return nil, err
	}
	args = append([]string{"serve", "--listen", "ADDRESS", "--data", data, "--upstream", "off", "--sumdb", "off", "--private", "corp.example",
		"--ca-file", c.CAFile(), "--answer-timeout", "10m"}, args...)
	return b.start("/readyz", false, append([]string(nil), c.env...), b.assay, args...)
}

// startTheirs starts Athens with empty directories and its default settings, but without a time
// limit.
func (b *bench) startTheirs(c *company) (*process, error) {
	if b.athens == "" {
		return nil, absent("Athens")
	}
	root, err := b.newDir()
	if err != nil {
		return nil, err
	}
	env := append([]string{
		"ATHENS_STORAGE_TYPE=disk", "ATHENS_DISK_STORAGE_ROOT=" + root, "ATHENS_PORT=ADDRESS", "ATHENS_TIMEOUT=1200",
		"ATHENS_GO_BINARY_ENV_VARS=GOPROXY=direct;GONOSUMDB=corp.example;GOTOOLCHAIN=local;GOFLAGS=-modcacherw;SSL_CERT_FILE=" + c.CAFile(),
	}, c.env...)
	return b.start("/healthz", false, env, b.athens)
}

// fetch fetches the version of a commit, info and zip, and returns the seconds.
func (b *bench) fetch(p *process, commit string) (float64, error) {
	begin := time.Now()
	resp, err := http.Get(p.url + "/" + privateModule + "/@v/" + commit + ".info")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s %.500s %w", commit, resp.Status, body, err)
	}
	var info struct{ Version string }
	if err := json.Unmarshal(body, &info); err != nil {
		return 0, err
	}
	if _, err := get(b.ctx, p.url+"/"+privateModule+"/@v/"+info.Version+".zip"); err != nil {
		return 0, err
	}
	return time.Since(begin).Seconds(), nil
}

// withCompany creates the hosts for f.
func (b *bench) withCompany(f func(c *company) (result, error)) (r result, err error) {
	c, err := b.newCompany()
	if c != nil {
		defer c.host.end()
	}
	if err != nil {
		return result{}, err
	}
	return f(c)
}

// withBoth starts assay and Athens with the hosts for f.
func (b *bench) withBoth(f func(c *company, ours, theirs *process) (result, error)) (result, error) {
	return b.withCompany(func(c *company) (result, error) {
		ours, err := b.startOurs(c)
		if err != nil {
			return result{}, err
		}
		defer ours.stop()
		theirs, err := b.startTheirs(c)
		if err != nil {
			return result{}, err
		}
		defer theirs.stop()
		return f(c, ours, theirs)
	})
}

// cloneRounds is how often each side clones a repository of 200 MB.
const cloneRounds = 3

// secondVersion compares the second version of a large repository with the first.
func (b *bench) secondVersion() (result, error) {
	return b.withCompany(func(c *company) (result, error) {
		var r ratios
		for range min(b.rounds, cloneRounds) {
			p, err := b.startOurs(c)
			if err != nil {
				return result{}, err
			}
			first, err := b.fetch(p, c.commit())
			var second float64
			if err == nil {
				second, err = b.fetch(p, c.commit())
			}
			p.stop()
			if err != nil {
				return result{}, err
			}
			log.Printf("first %.2f s, second %.2f s", first, second)
			r = append(r, second/first)
		}
		return r.atMost(0.2), nil
	})
}

// secondVersionAthens compares the second version of a large repository with the same at Athens.
func (b *bench) secondVersionAthens() (result, error) {
	return b.withBoth(func(c *company, ours, theirs *process) (result, error) {
		first := c.commit()
		for _, p := range []*process{ours, theirs} {
			if _, err := b.fetch(p, first); err != nil {
				return result{}, err
			}
		}
		side := func(p *process) func() (float64, error) {
			return func() (float64, error) { return b.fetch(p, c.commit()) }
		}
		r, err := pairs(min(b.rounds, cloneRounds), side(ours), side(theirs))
		if err != nil {
			return result{}, err
		}
		return r.atMost(0.25), nil
	})
}

// privateList compares the time for a list of versions that was requested before.
func (b *bench) privateList() (result, error) {
	return b.withBoth(func(c *company, ours, theirs *process) (result, error) {
		side := func(p *process, times int) func() (float64, error) {
			return func() (float64, error) {
				begin := time.Now()
				for range times {
					if _, err := get(b.ctx, p.url+"/"+privateModule+"/@v/list"); err != nil {
						return 0, err
					}
				}
				return time.Since(begin).Seconds() / float64(times), nil
			}
		}
		for _, p := range []*process{ours, theirs} { // warms up
			if _, err := side(p, 1)(); err != nil {
				return result{}, err
			}
		}
		r, err := pairs(b.rounds, side(ours, 1000), side(theirs, 3))
		if err != nil {
			return result{}, err
		}
		return result{text: fmt.Sprintf("%.4f", r.median()), met: r.median() <= 0.05}, nil
	})
}

// privateHit compares the requests per second for a private go.mod with an access rule, with a
// token, with those for a public one.
func (b *bench) privateHit() (result, error) {
	if _, err := exec.LookPath("wrk"); err != nil {
		return result{}, err
	}
	return b.withCompany(func(c *company) (result, error) {
		dir, err := b.newDir()
		if err != nil {
			return result{}, err
		}
		tokens := filepath.Join(dir, "tokens")
		secret, err := access.CreateToken(tokens, access.Token{Name: "bench", Groups: []string{"team"}})
		if err != nil {
			return result{}, err
		}
		u, err := b.newUpstream()
		if err != nil {
			return result{}, err
		}
		defer u.stop()
		path, err := u.add("bench.example/hot", 100_000)
		if err != nil {
			return result{}, err
		}
		data, err := b.newDir()
		if err != nil {
			return result{}, err
		}
		p, err := b.start("/readyz", true, append([]string(nil), c.env...), b.assay, "serve", "--listen", "ADDRESS", "--data", data,
			"--upstream", u.url, "--sumdb", u.key, "--ca-file", c.CAFile(), "--access", "corp.example=team", "--tokens", tokens)
		if err != nil {
			return result{}, err
		}
		defer p.stop()
		public, private := p.url+path+".mod", p.url+"/"+privateModule+"/@v/v1.0.0.mod"
		header := "Authorization: Bearer " + secret
		if _, err := get(b.ctx, public); err != nil {
			return result{}, err
		}
		if err := b.getWith(private, header); err != nil {
			return result{}, err
		}
		r, err := pairs(b.rounds,
			func() (float64, error) { return b.wrk(private, "-H", header) },
			func() (float64, error) { return b.wrk(public) })
		if err != nil {
			return result{}, err
		}
		return r.atLeast(0.9), nil
	})
}

// getWith requests a URL with a header; the response must be 200.
func (b *bench) getWith(url, header string) error {
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	name, value, _ := strings.Cut(header, ": ")
	req.Header.Set(name, value)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 500))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", url, resp.Status, text)
	}
	return err
}
