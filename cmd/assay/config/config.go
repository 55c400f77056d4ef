// Package config is the table of settings: what each is called as a flag, in the
// environment and in the file, what it means, and where its value came from. It opens
// nothing but that file; what the values mean to the parts of the program is checked by
// package daemon.
package config

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// defaultUpstream is the go command's own default proxy. It is here only, which
// is why the setting's tag does not have it.
const defaultUpstream = "https://proxy.golang.org"

// Config is every setting there is. The tags are the manual: --help,
// docs/configuration.md and the sample that assay config prints are made of
// them. A setting comes from its flag, else from its environment variable
// (ASSAY_ and its name), else from the file, else from the variable of the go
// command that means the same, else it is the default.
type Config struct {
	Listen   string `name:"listen" default:"localhost:3000" help:"Address to listen on, host:port. An empty host means every interface: :3000. Who can reach it can read what it has, but for what the setting access keeps to groups."`
	Data     string `name:"data" default:"assay-data" help:"Directory for everything that is kept; serve makes it. One process at a time."`
	Upstream string `name:"upstream" go:"GOPROXY" reload:"yes" help:"Where modules come from, in the syntax of GOPROXY: proxy URLs (https, http, file) separated by a comma (go on to the next if it does not have the module) or a bar (go on after any error). off: nowhere, answer from what is stored. direct, at the end: from the module's own repository, verified like everything else."`
	SumDB    string `name:"sumdb" default:"sum.golang.org" go:"GOSUMDB" help:"Checksum database that modules are verified with, in the syntax of GOSUMDB: a known name like sum.golang.org, or name+hash+key, either with a URL behind a space. off: verify nothing; the log warns of it at every start."`
	Mirror   string `name:"mirror" default:"" help:"More checksum databases to serve, verified, to clients that have chosen them: verifier keys (name+hash+key), separated by commas."`
	Private  string `name:"private" default:"" go:"GOPRIVATE,GONOPROXY,GONOSUMDB" reload:"yes" help:"Patterns of private modules, in the syntax of GOPRIVATE, separated by commas without spaces. No name they match is ever sent to an upstream or a checksum database: they come from their own repositories, and are pinned in a log of our own."`

	VCS         string        `name:"vcs" default:"git" help:"Version control systems that private modules, and those that upstream leaves to direct, are fetched with, separated by commas, as in GOVCS. They and the go command must be in PATH. off: nothing is fetched from repositories."`
	VCSCache    int           `name:"vcs-cache" default:"10240" help:"Room for copies of repositories, in MiB. The one that was not used for longest goes first."`
	VCSJobs     int           `name:"vcs-jobs" default:"4" help:"Go commands that download from repositories at the same time, at most; as many more may list their versions. One host gets half of them, so that one that hangs does not keep the others from being asked; with 1 it does."`
	VCSTimeout  time.Duration `name:"vcs-timeout" default:"10m" help:"Time for one of them, after which it is killed with all it has started."`
	VCSHosts    string        `name:"vcs-hosts" default:"" help:"Hosts, or host:port, separated by commas, that repositories may be on whatever their address is and on any port. Without it private modules come from port 443 (SSH: 22) of hosts that are neither this machine nor link-local, others from public addresses only."`
	Netrc       string        `name:"netrc" default:"" help:"File in the format of curl's netrc with credentials for code hosts. Nobody else may be able to read it."`
	Credentials string        `name:"credentials" default:"" help:"TOML file with [[credential]] tables for code hosts, by pattern: tokens, SSH keys, GitHub Apps. See docs/private.md."`
	HookSecret  string        `name:"hook-secret-file" default:"" help:"File with the secret of the webhooks at /-/hooks/github, /-/hooks/gitlab and /-/hooks/gitea. Without it there are none."`

	LogName  string `name:"log-name" default:"" help:"Name of our own log, host[/path], given when it is made: it is in each of its signatures. Default: assay- and 8 digits. assay key prints it."`
	LogGuard string `name:"log-guard" default:"" help:"File on another disk or machine that has the newest tree of the log. Only with it is a disk or a snapshot noticed that was set back as a whole. See docs/operations.md."`
	Unified  bool   `name:"unified" default:"false" help:"Serve our own log as a checksum database that covers public modules too, copied after they were proved. Clients then set GOSUMDB to what assay key prints, and need no GONOSUMDB."`

	Access    string `name:"access" default:"" reload:"yes" help:"Who may read private modules: pattern=group|group, separated by commas. The patterns count as private too. The group * is all who have authenticated, anyone is every client. If several match a module, or another module of its repository, each must be satisfied. To all other clients the module does not exist. What is read with a credential and has no rule is served to no client. See docs/access.md."`
	Anonymous bool   `name:"anonymous" default:"true" help:"Serve public modules, and private ones without a rule in access that are read without a credential, to clients that have not authenticated."`
	Htpasswd  string `name:"htpasswd" default:"" help:"File with users and bcrypt hashes of their passwords, as htpasswd -B writes it. Read again when it changes."`
	Groups    string `name:"groups" default:"" help:"File with the groups of those users and of client certificates, in the format of Apache's AuthGroupFile. Read again when it changes."`
	Tokens    string `name:"tokens" default:"" help:"File with the tokens that assay token makes. Default: tokens in the data directory."`
	OIDC      string `name:"oidc" default:"" help:"TOML file with the issuers whose tokens are believed, and which claims make which groups. Read again when it changes. See docs/access.md."`
	Operators string `name:"operators" default:"" help:"Groups, separated by commas, that may read /-/leaks. Default: only clients on this machine."`

	TLSCert        string `name:"tls-cert" default:"" help:"PEM file with the certificate chain of this server, which then speaks HTTPS and HTTP/2. Read again when it changes."`
	TLSKey         string `name:"tls-key" default:"" help:"PEM file with the key of tls-cert. Nobody else may be able to read it."`
	TLSClientCA    string `name:"tls-client-ca" default:"" help:"PEM file with the authorities of client certificates, which then authenticate: their first DNS name, else their common name, is the user. Read again when it changes."`
	TrustedProxies string `name:"trusted-proxies" default:"" help:"Networks (CIDR) of the reverse proxies in front of this server, separated by commas. From them X-Forwarded-For says who the client is; from others it is ignored."`

	CAFile         string        `name:"ca-file" default:"" reload:"yes" help:"PEM file with certificate authorities to trust for upstreams, besides the system's. Proxies in HTTP_PROXY, HTTPS_PROXY and NO_PROXY are used."`
	RedirectHosts  string        `name:"redirect-hosts" default:"" reload:"yes" help:"Hosts, or host:port, separated by commas, that upstreams may redirect to whatever their address is: object storage inside, for instance. Without it redirects are followed to public addresses, and from an upstream inside to another one in upstream."`
	ConnectTimeout time.Duration `name:"connect-timeout" default:"5s" reload:"yes" help:"Time to connect to an upstream, and as much again for its TLS handshake."`
	HeaderTimeout  time.Duration `name:"header-timeout" default:"8s" reload:"yes" help:"Time for an upstream to begin its answer, for each attempt. An upstream that lives and is slower is asked once more with more time, and the client told to come again."`
	IdleTimeout    time.Duration `name:"idle-timeout" default:"10s" reload:"yes" help:"Time without a byte from an upstream after which a transfer is taken for broken and resumed."`
	Attempts       int           `name:"attempts" default:"3" reload:"yes" help:"How often an upstream is asked for one object before the next one is."`

	BreakerShare   int           `name:"breaker-share" default:"50" reload:"yes" help:"Percent of the last fetches from an upstream, over several clients and modules, that must get no answer for it to be left alone although it answers a probe. An upstream that does not answer the probe is left alone in any case."`
	BreakerWindow  int           `name:"breaker-window" default:"100" reload:"yes" help:"How many fetches from an upstream breaker-share is of: the last ones."`
	BreakerMinimum int           `name:"breaker-minimum" default:"20" reload:"yes" help:"Of how many different modules those fetches without an answer must be, at least."`
	BreakerOpen    time.Duration `name:"breaker-open" default:"5s" reload:"yes" help:"How long an upstream that does not answer is left alone before it is probed again. No client's request is used for that."`

	AnswerTimeout time.Duration `name:"answer-timeout" default:"28s" help:"Time after which a client that waits is told so. What it waits for goes on."`
	Fresh         time.Duration `name:"fresh" default:"1m" help:"How long a list, a latest version or the commit of a branch counts as current."`
	Stale         time.Duration `name:"stale" default:"168h" help:"How long a list, a latest version, the commit of a branch, or that there is no such module, is still given when no upstream can be asked."`
	Fills         int           `name:"fills" default:"64" help:"Objects other than zips that are fetched at the same time, at most. What is stored never waits for them."`
	ZipFills      int           `name:"zip-fills" default:"16" help:"Zips that are fetched at the same time, at most."`

	MemoryBudget int `name:"memory-budget" default:"256" help:"Memory, in MiB, for all that clients and upstreams choose the size of: objects on their way, connections, indexes. What does not fit waits, or gets 503. The process takes some 20 MiB besides, and a quarter for what is not collected yet."`

	LogFormat       string        `name:"log-format" default:"text" help:"Form of the log: text or json."`
	LogLevel        string        `name:"log-level" default:"info" reload:"yes" help:"Least level that is logged: debug, info, warn or error."`
	AccessLog       bool          `name:"access-log" default:"true" reload:"yes" help:"Log a line for each request, at level info."`
	ShutdownDelay   time.Duration `name:"shutdown-delay" default:"0s" zero:"yes" help:"How long the server goes on after the signal to stop while /readyz says 503, so that load balancers send no more requests. A second signal ends it at once."`
	ShutdownTimeout time.Duration `name:"shutdown-timeout" default:"30s" help:"How long transfers may go on after the signal to stop."`
}

// Setting describes one field of Config.
type Setting struct {
	Name, Default, Help string
	Env                 string   // its variable
	GoEnv               []string // the go command's variables that mean the same
	Reload              bool     // SIGHUP is enough
	Zero                bool     // 0 means none
	field               int
	kind                reflect.Type
}

// TOML returns the setting's key in the file.
func (s Setting) TOML() string { return strings.ReplaceAll(s.Name, "-", "_") }

// Settings returns the description of every setting, in the order of Config.
func Settings() []Setting {
	t := reflect.TypeFor[Config]()
	var all []Setting
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		s := Setting{
			Name: tag.Get("name"), Default: tag.Get("default"), Help: tag.Get("help"),
			Reload: tag.Get("reload") == "yes", Zero: tag.Get("zero") == "yes", field: i, kind: t.Field(i).Type,
		}
		if s.Name == "upstream" {
			s.Default = defaultUpstream
		}
		s.Env = "ASSAY_" + strings.ToUpper(s.TOML())
		if goEnv := tag.Get("go"); goEnv != "" {
			s.GoEnv = strings.Split(goEnv, ",")
		}
		all = append(all, s)
	}
	return all
}

// Sources says where each setting of a Config came from, by name.
type Sources map[string]string

// List returns the elements of a setting that are separated by commas.
func List(text string) []string {
	return slices.DeleteFunc(strings.Split(text, ","), func(s string) bool { return s == "" })
}

// Level returns the least level that is logged.
func (c Config) Level() slog.Level {
	level, _ := parseLevel(c.LogLevel) // checked by Load
	return level
}

func parseLevel(name string) (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return 0, fmt.Errorf("log-level is %q; it must be debug, info, warn or error", name)
	}
	return level, nil
}

// TokenFile is where the tokens are.
func (c Config) TokenFile() string {
	if c.Tokens != "" {
		return c.Tokens
	}
	return filepath.Join(c.Data, "tokens")
}
