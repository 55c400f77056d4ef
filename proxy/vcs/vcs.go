// Package vcs fetches modules from version control, by running the go command.
//
// No other package runs programs. The go command runs git and ssh, and sometimes this
// package does (see update, damage and probeSSH). All of them get a clean environment,
// use repositories that this package has found and checked before, and, except for ssh,
// reach the network only through a proxy on the loopback interface (door) that allows
// one host. So a go-import page cannot lead them to an address that the administrator
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
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/egress"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/vcs/credential"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// maxModule is the length of a module path that is read, in bytes. The go command unpacks a
// module below its path, and a path of files has at most 260 characters on Windows if
// nothing else is configured, so no module for everyone comes near; but a page with
// wildcard paths can have any number of paths of 2,000 bytes, and each one read is noted.
const maxModule = 300

// Credential says how to authenticate at one host.
type Credential = credential.Credential

// CheckCredentials returns the error that New would return for these credentials, for a
// file that cannot be read for instance. It changes nothing.
func CheckCredentials(list []Credential, netrc string) error { return credential.Check(list, netrc) }

// CredentialHosts returns, for each host that a credential is for, the patterns of the
// modules that it is used for, "*" for those of a netrc.
func (s *Source) CredentialHosts() map[string][]string { return s.credentials.Hosts() }

// Reach says how far a fetch may reach.
type Reach = egress.Reach

const (
	Public  = egress.Public   // the internet: no address that is private to a network
	Private = egress.Intranet // the intranet too: all but this machine and link-local addresses
)

// Config says how a Source works. Dir is needed; the zero value of everything else
// is its default.
type Config struct {
	Dir string // for clones and the go command's files; used by one Source only; created if needed

	// Systems are the version control systems that may be used, with
	// their names in GOVCS. Default git, the only one that credentials are
	// used with.
	Systems []string

	Jobs     int           // concurrent downloads, and as many lists; default 4. One host gets half of them
	Timeout  time.Duration // for one of them; default 10 min
	MaxBytes int64         // of all repositories; default 10 GiB

	// Hosts, as host or host:port, may have any address, on any port or on that one.
	// Others are reached on port 443, by SSH on 22, and on those that Credentials name.
	Hosts []string

	// CAFile is a PEM file with certificate authorities to trust in addition to
	// the system's.
	CAFile string

	// Credentials are tried in order, then Netrc, a file in the format of curl.
	// Public modules are fetched without credentials.
	Credentials []Credential
	Netrc       string

	// Memory is the budget for go.mod files, and for large output of the go command.
	// Nil is no limit.
	Memory *memory.Budget

	// Lookup and Dial replace the resolver and the dialer.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)

	Logger *slog.Logger // default: discard
}

// Source fetches modules from version control. Its methods may be called
// concurrently.
type Source struct {
	config      Config
	log         *slog.Logger
	metrics     *metrics
	network     *guard.Network
	client      *http.Client // for what we ask hosts ourselves
	door        *door
	credentials *credential.Set
	tools       error // why nothing can be fetched, nil if something can

	goCommand, goVersion string
	git                  string // program, "" if it is not among the systems
	roots                string // file with the certificate authorities for git, if not its own

	children *children

	preparing sync.Mutex // of what prepareHome makes

	asking, running  crowd // at the hosts of pages, and of repositories
	downloads, lists places

	repos repositories
	found foundRepos
	asked shares // of what several ask at the same time
}

// New makes a Source. Whether the go command and git are there shows in Tools,
// not in the error, which is about files that cannot be used.
func New(c Config) (*Source, error) {
	c = c.withDefaults()
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil { // commands run elsewhere
		return nil, fmt.Errorf("directory for version control: %w", err)
	}
	s := &Source{config: c, log: c.Logger, metrics: newMetrics()}
	s.children = newChildren()
	s.repos.limit, s.repos.dir = c.MaxBytes, filepath.Join(c.Dir, "repos")
	if s.network, err = guard.New(guard.Config{Hosts: c.Hosts, CAFile: c.CAFile, Lookup: c.Lookup, Dial: c.Dial}); err != nil {
		return nil, err
	}
	if s.roots, err = writeRoots(c); err != nil {
		return nil, err
	}
	s.client = s.network.Client()
	if s.credentials, err = credential.New(c.Credentials, c.Netrc, s.client, c.Logger); err != nil {
		return nil, err
	}
	s.network.AllowPorts(s.credentials.Ports())
	if s.tools = s.findTools(); s.tools != nil {
		return s, nil
	}
	if err := s.prepareHome(); err != nil {
		return nil, err
	}
	if s.goVersion, s.tools = s.askVersion(); s.tools != nil {
		return s, nil
	}
	if s.door, err = openDoor(s.network); err != nil {
		return nil, err
	}
	s.children.reapOrphans()
	s.repos.measure()
	s.metrics.cacheBytes.Set(float64(s.repos.size()))
	return s, nil
}

func (c Config) withDefaults() Config {
	if len(c.Systems) == 0 {
		c.Systems = []string{"git"}
	}
	if c.Jobs <= 0 {
		c.Jobs = 4
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Minute
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 10 << 30
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Tools returns why nothing can be fetched on this machine, nil if it can.
func (s *Source) Tools() error { return s.tools }

// Close takes the door away that running commands need.
func (s *Source) Close() error {
	if s.door == nil {
		return nil
	}
	s.children.close()
	return s.door.close()
}

// findTools looks for the go command and for what it needs.
func (s *Source) findTools() error {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("%w: no go command in PATH", ErrTools)
	}
	for _, system := range s.config.Systems {
		program, err := exec.LookPath(system)
		if err != nil {
			return fmt.Errorf("%w: no %s in PATH", ErrTools, system)
		}
		if system == "git" {
			s.git = program
		}
	}
	if s.goCommand, err = filepath.Abs(goCommand); err != nil {
		return fmt.Errorf("%w: %w", ErrTools, err)
	}
	return nil
}

// prepareHome makes what every run uses, as far as it is not there: somebody who makes
// room may have removed it.
func (s *Source) prepareHome() error {
	s.preparing.Lock()
	defer s.preparing.Unlock()
	telemetry := filepath.Join(s.home(), ".config", "go", "telemetry")
	for _, dir := range []string{telemetry, s.emptyDir(), s.repos.dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return ownTrouble("directory for version control", err)
		}
	}
	if _, err := os.Stat(s.roots); s.roots != "" && isAbsence(err) {
		if _, err := writeRoots(s.config); err != nil {
			return ownTrouble("directory for version control", err)
		}
	}
	// The go command counts its own use, in a process that leaves our group,
	// unless it is told not to before it first runs, and nowhere but here.
	mode := filepath.Join(telemetry, "mode")
	if data, err := os.ReadFile(mode); err == nil && string(data) == "off\n" {
		return nil
	}
	return ownTrouble("directory for version control", os.WriteFile(mode, []byte("off\n"), 0o600))
}

func (s *Source) home() string { return filepath.Join(s.config.Dir, "home") }

// emptyDir is where commands run: there must be no go.mod in it or above it that
// means anything.
func (s *Source) emptyDir() string { return filepath.Join(s.config.Dir, "empty") }

// Versions are what a repository says about a module as a whole.
type Versions struct {
	Tagged   []string // versions, retracted ones included, in no particular order
	Latest   Info     // what the go command means by latest
	NoLatest error    // why there is none, though there are Tagged ones: the newest is no version of the module
	Origin   Origin
	Place    Place
}

// Info is a version. Its JSON is that of an .info file.
type Info struct {
	Version string
	Time    time.Time
	Origin  *Origin `json:",omitempty"`
	Place   Place   `json:"-"`
}

// Origin is where a version comes from (cmd/go/internal/modfetch/codehost.Origin).
type Origin struct {
	VCS    string `json:",omitempty"`
	URL    string `json:",omitempty"`
	Subdir string `json:",omitempty"`
	Ref    string `json:",omitempty"`
	Hash   string `json:",omitempty"`
}

// String returns the repository and the commit in one line.
func (o Origin) String() string {
	return strings.Join(slices.DeleteFunc([]string{o.URL, o.Ref, o.Hash}, func(s string) bool { return s == "" }), " ")
}

// listed is what go list -m -json prints of a module, and where that was found.
type listed struct {
	Path, Version string
	Versions      []string
	Time          *time.Time
	GoMod         string
	Retracted     []string // why, of a version that its module has taken back
	Origin        *Origin
	Error         *struct{ Err string }

	place Place
}

func (l listed) info() Info {
	info := Info{Version: l.Version, Origin: l.Origin, Place: l.place}
	if l.Time != nil {
		info.Time = *l.Time
	}
	return info
}

// Versions lists the tagged versions of a module and its latest one. However many
// ask at the same time, one command is run.
func (s *Source) Versions(ctx context.Context, modulePath string, reach Reach) (Versions, error) {
	v, err := shared(ctx, s, fmt.Sprint("versions ", reach, " ", modulePath), func(ctx context.Context) (Versions, error) {
		l, err := s.list(ctx, modulePath, "latest", reach, "-versions", "-retracted")
		if err != nil && (!isAbsence(err) || len(l.Versions) == 0) {
			return Versions{}, err
		}
		// One tag with a bad go.mod must not take the others away.
		v := Versions{Tagged: l.Versions, Latest: l.info(), Place: l.place}
		if module.Check(modulePath, l.Version) != nil {
			v.Latest, v.NoLatest = Info{}, err
		}
		if len(l.Retracted) > 0 { // what is taken back is the latest only if there is nothing else
			latest, err := s.list(ctx, modulePath, "latest", reach)
			if err == nil {
				v.Latest = latest.info()
			} else if !isAbsence(err) {
				return Versions{}, err
			}
		}
		if l.Origin != nil {
			v.Origin = *l.Origin
		}
		return v, nil
	})
	return v, s.explain(ctx, job{what: modulePath + "@latest"}, nil, err)
}

// Query returns the version that a branch, a tag or a commit stands for.
func (s *Source) Query(ctx context.Context, modulePath, query string, reach Reach) (Info, error) {
	info, err := shared(ctx, s, fmt.Sprint("query ", reach, " ", modulePath, "@", query), func(ctx context.Context) (Info, error) {
		l, err := s.list(ctx, modulePath, query, reach)
		return l.info(), err
	})
	return info, s.explain(ctx, job{what: modulePath + "@" + query}, nil, err)
}

// list runs go list -m for one module.
func (s *Source) list(ctx context.Context, modulePath, query string, reach Reach, flags ...string) (listed, error) {
	what := modulePath + "@" + query
	args := slices.Concat([]string{"list", "-m", "-e", "-json"}, flags, []string{"--", what})
	var l listed
	err := s.run(ctx, job{module: modulePath, what: what, reach: reach, args: args}, func(out []byte, place Place) error {
		l = listed{}
		if err := decodeOne(out, &l); err != nil {
			return err
		}
		l.place = place
		held := s.config.Memory.HoldFor(ctx)
		defer held.Free()
		if err := held.Try(1); err != nil { // a run that holds its output already must not wait for more
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

// Files is what go mod download has made of a version. They are readable until the
// function that got them returns.
type Files struct {
	Info, Mod []byte
	Zip       string // name of a file
	Origin    Origin
	Place     Place
}

// limits of what is read whole, the go command's own.
const (
	maxMod  = 16 << 20
	maxInfo = 1 << 20
)

// Download fetches a version and hands its files to use. A version is the
// commit that its tag has now, or had when the host last answered; it is for the caller
// to hold versions fast. An error of use comes back in the Error,
// but not as absence.
func (s *Source) Download(ctx context.Context, mod module.Version, reach Reach, use func(Files) error) error {
	j := job{module: mod.Path, what: mod.String(), reach: reach, args: []string{"mod", "download", "-json", "--", mod.String()}}
	return s.run(ctx, j, func(out []byte, place Place) error {
		var got struct {
			Path, Version, Error, Info, GoMod, Zip string
			Origin                                 *Origin
		}
		if err := decodeOne(out, &got); err != nil {
			return err
		}
		if got.Error != "" {
			return s.explainDownload(got.Error, got.GoMod, got.Origin)
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
		if err = use(files); isAbsence(err) {
			err = fmt.Errorf("using the files: %v", err) // the files exist, so the module exists
		}
		return err
	})
}

// readFile reads a file of at most limit bytes that the go command has made, into the
// memory.Hold of ctx.
func readFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("output of the go command: %v", err) // its absence is not the module's
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, filepath.Base(name), info.Size())
	}
	return memory.HoldOf(ctx).Read(ctx, f, info.Size(), limit)
}

// Repository returns the repository of a module as far as it is known, "" if
// nothing is: as host/path, in lower case, without a .git at its end, which is the
// same for https and ssh.
func (s *Source) Repository(modulePath string) string {
	for _, reach := range []Reach{Private, Public} {
		if repo := s.found.get(modulePath, reach); repo != nil {
			return repo.canonical()
		}
	}
	return ""
}

// Forget makes the next fetch look up repositories again.
func (s *Source) Forget() { s.found.clear() }
