// Package vcs fetches modules from version control, by running the go command.
//
// No other package runs programs. The go command runs git and ssh, and sometimes this
// package does (see clone and sshClient). All of them get a clean environment, use
// repositories that this package has found and checked before, and, except for ssh, reach
// the network only through a proxy on the loopback interface (gitProxy) that allows one
// host. So a go-import page cannot lead them to an address that the administrator
// does not allow, and no credential is on a command line, in a URL or in a file.
//
// Clones are kept, so that a second version is an incremental fetch; extracted
// trees are not.
package vcs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/internal/notfound"
	"github.com/assay-proxy/assay/proxy/vcs/credential"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// Source fetches modules from version control. Its methods may be called
// concurrently.
type Source struct {
	config      Config
	log         *slog.Logger
	metrics     *metrics
	credentials *credential.Set
	programs    *programs
	questions   *questions
	resolver    *resolver
	runner      *runner
}

// New makes a Source. Tools, not the error, says whether the go command and git exist; the
// error is about files that cannot be used.
func New(c Config) (*Source, error) {
	c = c.withDefaults()
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil { // commands run elsewhere
		return nil, fmt.Errorf("directory for version control: %w", err)
	}
	network, err := guard.New(c.Network)
	if err != nil {
		return nil, err
	}
	home := &home{dir: c.Dir, caFile: c.Network.CAFile}
	if err := home.writeRoots(); err != nil {
		return nil, err
	}
	s := &Source{config: c, log: c.Logger, metrics: newMetrics(), questions: newQuestions(c.Timeout)}
	client := network.Client()
	if s.credentials, err = credential.New(c.Credentials, c.Netrc, client, c.Logger); err != nil {
		return nil, err
	}
	network.AllowPorts(s.credentials.Ports())
	asker := &asker{client, s.credentials}
	s.programs = &programs{home: home, maxBytes: c.MaxBytes, children: newChildren()}
	s.resolver = newResolver(c.Systems, asker, s.questions)
	s.runner = &runner{
		config: c, metrics: s.metrics, network: network, asker: asker, resolver: s.resolver, programs: s.programs,
		ssh:    &sshClient{network, s.programs, c.Logger},
		clones: &clones{dir: home.clones(), limit: c.MaxBytes},
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

// start looks for the programs, and starts what serves them.
func (s *Source) start() (err error) {
	p := s.programs
	if p.missing = p.find(s.config.Systems); p.missing != nil {
		return nil
	}
	if err := p.home.prepare(); err != nil {
		return err
	}
	if p.goVersion, p.missing = p.askVersion(); p.missing != nil {
		return nil
	}
	if s.runner.proxy, err = openGitProxy(s.runner.network); err != nil {
		return err
	}
	p.children.reapOrphans()
	s.runner.clones.measure()
	s.metrics.cacheBytes.Set(float64(s.runner.clones.size()))
	return nil
}

// Tools returns why nothing can be fetched on this machine, nil if it can.
func (s *Source) Tools() error { return s.programs.missing }

// Close ends the questions, and the proxy that running commands need.
func (s *Source) Close() error {
	s.questions.close()
	if s.runner.proxy == nil {
		return nil
	}
	s.programs.children.close()
	return s.runner.proxy.close()
}

// Metrics returns the collectors of this source, the same ones each time.
func (s *Source) Metrics() []prometheus.Collector { return s.metrics.collectors() }

// CredentialHosts returns, for each host that a credential is for, the patterns of the
// modules that it is used for, "*" for those of a netrc.
func (s *Source) CredentialHosts() map[string][]string { return s.credentials.Hosts() }

// Changed says that some repository has changed: later callers do not share the answer to
// a question that was already asked.
func (s *Source) Changed() { s.questions.group.Outdate() }

// Versions lists the tagged versions of a module and its latest one. Concurrent callers
// share one command.
func (s *Source) Versions(ctx context.Context, modulePath string, reach Reach) (Versions, error) {
	v, err := share(ctx, s.questions, fmt.Sprint("versions ", reach, " ", modulePath), func(ctx context.Context) (Versions, error) {
		l, err := s.list(ctx, modulePath, "latest", reach, "-versions", "-retracted")
		if err != nil && (!notfound.Is(err) || len(l.Versions) == 0) {
			return Versions{}, err
		}
		// A tag with a bad go.mod must not hide the others.
		v := Versions{Tagged: l.Versions, Latest: l.info(), Place: l.place}
		if module.Check(modulePath, l.Version) != nil {
			v.Latest, v.NoLatest = Info{}, err
		}
		if len(l.Retracted) > 0 { // a retracted version is the latest only if there is no other
			latest, err := s.list(ctx, modulePath, "latest", reach)
			if err == nil {
				v.Latest = latest.info()
			} else if !notfound.Is(err) {
				return Versions{}, err
			}
		}
		if l.Origin != nil {
			v.Origin = *l.Origin
		}
		return v, nil
	})
	return v, newError(ctx, s.log, modulePath+"@latest", "", err)
}

// Query returns the version that a branch, a tag or a commit stands for.
func (s *Source) Query(ctx context.Context, modulePath, query string, reach Reach) (Info, error) {
	info, err := share(ctx, s.questions, fmt.Sprint("query ", reach, " ", modulePath, "@", query), func(ctx context.Context) (Info, error) {
		l, err := s.list(ctx, modulePath, query, reach)
		return l.info(), err
	})
	return info, newError(ctx, s.log, modulePath+"@"+query, "", err)
}

// list runs go list -m for one module.
func (s *Source) list(ctx context.Context, modulePath, query string, reach Reach, flags ...string) (listed, error) {
	what := modulePath + "@" + query
	args := slices.Concat([]string{"list", "-m", "-e", "-json"}, flags, []string{"--", what})
	var l listed
	err := s.runner.do(ctx, job{module: modulePath, what: what, reach: reach, args: args}, func(out []byte, place Place) error {
		l = listed{}
		if err := decodeOne(out, &l); err != nil {
			return err
		}
		l.place = place
		held := s.config.Memory.HoldFor(ctx)
		defer held.Free()
		if err := held.Try(1); err != nil { // a run must not wait for memory while it holds some for its output
			return err
		}
		goMod, err := readFile(held.Context(ctx), l.GoMod, maxMod)
		if errors.Is(err, memory.ErrFull) {
			return err
		}
		if l.GoMod != "" && err == nil {
			l.place.Declared = declared(goMod)
		}
		if l.Error != nil {
			return &reported{text: l.Error.Err}
		}
		if l.Path != modulePath || l.Version == "" {
			return &reported{text: "no version"}
		}
		return module.Check(l.Path, l.Version)
	})
	return l, err
}

// Locate returns the place of a module without a request to its repository. It requests
// the page of the module, if it needs one. With open it sends no credential to the host of
// that page: if there is one, the Place says so, and has nothing else. The errors are those
// of Versions.
func (s *Source) Locate(ctx context.Context, modulePath string, reach Reach, open bool) (Place, error) {
	j := job{module: modulePath, what: modulePath, reach: reach}
	if open && s.resolver.pageCredential(j) {
		return Place{Credential: true}, nil
	}
	repo, err := s.resolver.resolve(ctx, j)
	if err != nil {
		return Place{}, newError(ctx, s.log, modulePath, "", err)
	}
	return s.resolver.place(j, repo), nil
}

// Download fetches a version and calls use with its files. A version is the commit that
// its tag has now, or had when the host last answered; the caller pins versions. An error
// of use is in the Error, but not as absence.
func (s *Source) Download(ctx context.Context, mod module.Version, reach Reach, use func(Files) error) error {
	j := job{module: mod.Path, what: mod.String(), reach: reach, args: []string{"mod", "download", "-json", "--", mod.String()}}
	return s.runner.do(ctx, j, func(out []byte, place Place) error {
		var got struct {
			Path, Version, Error, Info, GoMod, Zip string
			Origin                                 *Origin
		}
		if err := decodeOne(out, &got); err != nil {
			return err
		}
		if got.Error != "" {
			return downloadError(s.programs.goVersion, got.Error, got.GoMod, got.Origin)
		}
		if got.Path != mod.Path || got.Version != mod.Version || got.Zip == "" {
			return &reported{text: "no zip of that version"}
		}
		files := Files{Zip: got.Zip, Place: place}
		if got.Origin != nil {
			files.Origin = *got.Origin
		}
		held := s.config.Memory.HoldFor(ctx)
		defer held.Free()
		var err error
		if files.Mod, err = readFile(held.Context(ctx), got.GoMod, maxMod); err != nil {
			return err
		}
		if files.Info, err = readFile(ctx, got.Info, maxInfo); err != nil {
			return err
		}
		files.Place.Declared = declared(files.Mod)
		if err = use(files); notfound.Is(err) {
			err = fmt.Errorf("using the files: %w", notfound.OfPart(err)) // the files exist, so the module exists
		}
		return err
	})
}

// Repository returns the repository of a module if it was found recently, "" otherwise:
// host/path as CanonicalRepository returns it.
func (s *Source) Repository(modulePath string) string {
	for _, reach := range []Reach{Private, Public} {
		if repo := s.resolver.known(modulePath, reach); repo != nil {
			return repo.canonical()
		}
	}
	return ""
}

// Forget makes the next fetch look for repositories again.
func (s *Source) Forget() { s.resolver.forgetAll() }
