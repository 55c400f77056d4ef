// Package config is the table of settings: the name of each as a flag, in the environment and in
// the file, its meaning, and the source of its value. It opens nothing but that file and the files
// that have the value of one setting; package daemon checks the values against the parts of the
// program.
package config

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config has all settings. The tags are the manual: --help, docs/configuration.md and the sample
// that assay config prints are generated from them. A setting is taken from its flag, else from its
// environment variable (ASSAY_ and its name; for a secret also with _FILE and the name of a file),
// else from the file, else from the go command's variable with the same meaning, else it has its
// default.
type Config struct {
	Listen        string `name:"listen" value:"ADDR" default:"localhost:3000" help:"Address to listen on, host:port. An empty host means all interfaces: :3000. Every client that can reach it can read everything except modules restricted by access. Or unix: and the absolute path of a socket, for a reverse proxy on this machine: unix:/run/assay/assay.sock. The server makes it with mode 0660, in place of one that a killed server has left, and trusts each process that can open it like one in trusted-proxies."`
	MetricsListen string `name:"metrics-listen" value:"ADDR" default:"" help:"Address, as in listen, for /metrics, /livez and /readyz alone, without TLS, prefix and authentication. The address in listen then has no /metrics."`
	Prefix        string `name:"prefix" value:"PATH" default:"" help:"Path below which everything is served, for example /go: clients then set GOPROXY to https://proxy.example/go. All other paths are answered with 404. Without it, everything is served from /."`
	Data          string `name:"data" value:"DIR" default:"assay-data" help:"Directory for all data; serve creates it. Only one server can use it at a time."`
	Store         string `name:"store" value:"URL" default:"" help:"Store in a bucket of an S3-compatible object store: s3://BUCKET/PREFIX?endpoint=URL&region=R&path-style=true; only the bucket is necessary. Several servers can use it at the same time, each with a data directory of its own for local copies. Credentials come from where the AWS command line has them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Without it, the store is in the data directory. See docs/replicas.md."`
	SingleReplica bool   `name:"single-replica" default:"false" help:"No other server uses the bucket in store. Then the object store need not keep conditional requests, nothing is exchanged with other servers, and the own log is in the data directory."`
	ReadOnly      bool   `name:"read-only" default:"false" help:"Serve what is stored, and write nothing to the data directory, which may be on a read-only file system and be used by several such servers. Nothing is fetched (upstream and vcs count as off), and the own log signs nothing new. Zips of private modules are checked in the directory for temporary files (TMPDIR)."`
	NoMigrate     bool   `name:"no-migrate" default:"false" help:"Do not change the layout of a store that an earlier version has made. If its keys would have to be moved, the program ends with an error; otherwise small objects are stored as earlier versions stored them. Without it, serve moves the keys once at its start, and changes the layout with the first object that it stores; then earlier versions cannot open the data directory any more."`
	Upstream      string `name:"upstream" value:"GOPROXYLIST" default:"https://proxy.golang.org" go:"GOPROXY" reload:"yes" secret:"yes" help:"Where modules come from, in the syntax of GOPROXY: proxy URLs (https, http, file) separated by a comma (continue with the next one if it does not have the module) or a bar (continue after any error). off: no upstream, serve stored modules only. direct, at the end: fetch from the module's own repository, verified like everything else."`
	SumDB         string `name:"sumdb" value:"GOSUMDB" default:"sum.golang.org" go:"GOSUMDB" secret:"yes" help:"Checksum database that verifies modules, in the syntax of GOSUMDB: a known name like sum.golang.org, or name+hash+key, either followed by a space and a URL. off: verify nothing; the log has a warning at every start."`
	Mirror        string `name:"mirror" value:"KEYS" default:"" secret:"yes" help:"Additional checksum databases to serve, verified, to clients that choose them: verifier keys (name+hash+key), separated by commas."`
	Predict       bool   `name:"predict" default:"true" help:"Fetch what the go command will probably request next, in places that no client needs: the next go.mod files, .info files and zips of public modules. It changes no answer."`
	Private       string `name:"private" value:"PATTERNS" default:"" go:"GOPRIVATE,GONOPROXY,GONOSUMDB" reload:"yes" help:"Patterns of private modules, in the syntax of GOPRIVATE, separated by commas without spaces. A matching name is never sent to an upstream or a checksum database: private modules are fetched from their repositories and pinned in the own log."`

	VCS         string        `name:"vcs" value:"NAME" default:"git" help:"Version control systems for private modules and for modules that upstream leaves to direct, separated by commas, as in GOVCS. They and the go command must be in PATH. off: fetch nothing from repositories."`
	VCSCache    int           `name:"vcs-cache" default:"10240" help:"Disk space for clones of repositories, in MiB. The least recently used clone is removed first."`
	VCSJobs     int           `name:"vcs-jobs" default:"4" help:"Maximum number of go commands that download from repositories concurrently; as many more may list versions. One host may use half of them, so that a host that hangs does not block the others; with 1 it does."`
	VCSTimeout  time.Duration `name:"vcs-timeout" default:"10m" help:"Time limit for one of these go commands. After it the command and all its child processes are killed."`
	VCSHosts    string        `name:"vcs-hosts" value:"HOSTS" default:"" help:"Hosts, or host:port, separated by commas, that may have repositories on any port and with any address. Without it, private modules come from port 443 (SSH: 22) of hosts that are neither this machine nor link-local, other modules only from public addresses."`
	Netrc       string        `name:"netrc" value:"FILE" default:"" help:"File with credentials for code hosts, in the netrc format of curl. No other user may have permission to read it."`
	Credentials string        `name:"credentials" value:"FILE" default:"" help:"TOML file with [[credential]] tables for code hosts, by pattern: tokens, SSH keys, GitHub Apps. See docs/private.md."`
	HookSecret  string        `name:"hook-secret-file" value:"FILE" default:"" help:"File with the secret of the webhooks at /-/hooks/github, /-/hooks/gitlab and /-/hooks/gitea. Without it, webhooks are disabled. SIGHUP reads the file again."`

	LogName  string `name:"log-name" value:"NAME" default:"" help:"Name of the own log, host[/path], set when the log is created: each of its signatures contains it. Default: assay- and 8 digits. assay key prints it."`
	LogGuard string `name:"log-guard" value:"FILE" default:"" help:"File on another disk or machine that records the newest tree of the own log. Only with it can the proxy detect that a whole disk or snapshot was restored to an older state. See docs/backup.md. For a log in a bucket it may be another bucket, as in store: s3://BUCKET/PREFIX?endpoint=URL; servers that share a log share it, and new ones need no log-trust-bucket."`
	LogKey   string `name:"log-key" value:"FILE" default:"" help:"File with the secret key of an own log that several servers share in the bucket of store, the same for all of them; assay log create makes it. No other user may have permission to read it. Without it, servers that share a bucket have no own log. See docs/replicas.md."`
	LogTrust bool   `name:"log-trust-bucket" default:"false" help:"The bucket in store has the newest state of the own log. A server with a new data directory needs this word, or log-guard, before it signs: it cannot see whether the bucket was set back. It overrides no guard that knows better, and begins no log: only assay log create does. Give it for one start only."`
	Unified  bool   `name:"unified" default:"false" help:"Serve the own log as a checksum database that also covers public modules, which are added after verification. Clients then set GOSUMDB to the output of assay key, and need no GONOSUMDB."`

	Access    string `name:"access" value:"RULES" default:"" reload:"yes" help:"Rules for reading private modules: pattern=group|group, separated by commas. The patterns are private too. The group * contains all authenticated clients, anyone contains every client. If several rules match a module, or another module of its repository, a client must satisfy each of them. For all other clients the module does not exist. As soon as there is any rule, a module that is read with a credential and has no rule is served to no client; without any rule, to every client. See docs/access.md."`
	Anonymous bool   `name:"anonymous" default:"true" help:"Serve public modules, and private modules that need no credential and have no rule in access, to clients that have not authenticated."`
	Htpasswd  string `name:"htpasswd" value:"FILE" default:"" help:"File with users and bcrypt hashes of their passwords, in the format of htpasswd -B. Reloaded when it changes."`
	Groups    string `name:"groups" value:"FILE" default:"" help:"File with the groups of these users and of client certificates, in the format of Apache's AuthGroupFile. Reloaded when it changes."`
	Tokens    string `name:"tokens" value:"FILE" default:"" help:"File with the tokens that assay token creates. Default: tokens in the data directory."`
	OIDC      string `name:"oidc" value:"FILE" default:"" help:"TOML file with the trusted token issuers, and the claims that map to groups. Reloaded when it changes. See docs/access.md."`
	Operators string `name:"operators" value:"GROUPS" default:"" help:"Groups, separated by commas, that may read /-/leaks. Default: only clients on this machine."`

	TLSCert        string `name:"tls-cert" value:"FILE" default:"" help:"PEM file with the server's certificate chain; the server then speaks HTTPS and HTTP/2. Reloaded when it changes."`
	TLSKey         string `name:"tls-key" value:"FILE" default:"" help:"PEM file with the private key of tls-cert. No other user may have permission to read it."`
	TLSClientCA    string `name:"tls-client-ca" value:"FILE" default:"" help:"PEM file with the authorities of client certificates. A client certificate then authenticates: its first DNS name, or else its common name, is the user. Reloaded when it changes."`
	TrustedProxies string `name:"trusted-proxies" value:"NETWORKS" default:"" help:"Networks (CIDR) of the reverse proxies in front of this server, separated by commas. X-Forwarded-For from these networks names the client, and X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-Prefix the URL that it uses; from others they are ignored. See docs/proxies.md."`

	CAFile         string        `name:"ca-file" value:"FILE" default:"" reload:"yes" help:"PEM file with certificate authorities to trust for upstreams, and for the object store in store, in addition to the system's. Proxies in HTTP_PROXY, HTTPS_PROXY and NO_PROXY are used."`
	RedirectHosts  string        `name:"redirect-hosts" value:"HOSTS" default:"" reload:"yes" help:"Hosts, or host:port, separated by commas, to which upstreams may redirect whatever their address is, for example internal object storage. Without it, redirects are followed to public addresses, and from an internal upstream to another one in upstream."`
	ConnectTimeout time.Duration `name:"connect-timeout" default:"5s" reload:"yes" help:"Time limit for connecting to an upstream, and again for the TLS handshake."`
	HeaderTimeout  time.Duration `name:"header-timeout" default:"8s" reload:"yes" help:"Time limit for an upstream to begin its answer, for each attempt. A slower upstream that still answers its probe is asked once more with more time, and the client is told to try again."`
	IdleTimeout    time.Duration `name:"idle-timeout" default:"10s" reload:"yes" help:"Time without a byte from an upstream after which a transfer counts as broken and is resumed."`
	Attempts       int           `name:"attempts" default:"3" reload:"yes" help:"How often an upstream is asked for one object before the next upstream is asked."`

	BreakerShare   int           `name:"breaker-share" default:"50" max:"100" reload:"yes" help:"Percentage of the last fetches from an upstream, over several clients and modules, that must get no answer before the circuit breaker opens although the upstream answers its probe. If the upstream does not answer its probe, the circuit breaker always opens."`
	BreakerWindow  int           `name:"breaker-window" default:"100" reload:"yes" help:"Number of last fetches from an upstream to which breaker-share applies."`
	BreakerMinimum int           `name:"breaker-minimum" default:"20" reload:"yes" help:"Minimum number of different modules among the fetches without an answer."`
	BreakerOpen    time.Duration `name:"breaker-open" default:"5s" reload:"yes" help:"How long the circuit breaker of an upstream stays open before the next probe. The probe is never a client's request."`

	AnswerTimeout time.Duration `name:"answer-timeout" default:"28s" help:"Time after which a waiting client gets an error that asks it to try again. The fetch continues."`
	Fresh         time.Duration `name:"fresh" default:"1m" help:"How long a list, a latest version or the commit of a branch counts as current."`
	Stale         time.Duration `name:"stale" default:"168h" help:"How long a list, a latest version, the commit of a branch, or the absence of a module is still served when no upstream is reachable."`
	Fills         int           `name:"fills" default:"64" help:"Maximum number of objects other than zips that are fetched concurrently. Requests for stored objects never wait for them."`
	ZipFills      int           `name:"zip-fills" default:"16" help:"Maximum number of zips that are fetched concurrently."`

	MemoryBudget int `name:"memory-budget" default:"256" min:"144" help:"Memory, in MiB, for everything whose size depends on clients and upstreams: objects in transfer, connections, indexes. Work that does not fit waits, or is answered with 503. The process needs about 20 MiB in addition, and a quarter of the budget for garbage that is not collected yet."`

	StoreLimit int `name:"store-limit" default:"0" min:"0" help:"Largest size, in MiB, of each of the two files of the store, at least 128. At the limit it is as if the disk were full: nothing new is stored until modules are purged. 0 means no limit; on systems with 32 bits it means 1024, and more is refused."`

	DiskLimit Size `name:"disk-limit" default:"0" help:"Disk space that the data directory may take, with everything in it: a size like 200MB, 10GiB or 1TB, or a number of MiB. Zips that an upstream still has, or with store all local copies, are then evicted, those of the least worth first, see docs/disk.md. One object that is being fetched may exceed it. 0 means no limit."`

	DiskAge time.Duration `name:"disk-age" default:"0s" min:"0" help:"How long after its last use a zip is evicted although there is room, at least one second, for example 2160h. What disk-limit may evict is evicted, and nothing else, see docs/disk.md; disk-limit need not be set. 0 means never."`

	LogFormat       string        `name:"log-format" value:"FORMAT" default:"text" enum:"text,json" help:"Format of the log: text or json."`
	LogLevel        string        `name:"log-level" value:"LEVEL" default:"info" enum:"debug,info,warn,error" reload:"yes" help:"Minimum level of log messages: debug, info, warn or error."`
	AccessLog       bool          `name:"access-log" default:"true" reload:"yes" help:"Log a line for each request, at level info."`
	AccessSample    int           `name:"access-log-sample" default:"1" reload:"yes" help:"Log only one of so many hits, chosen at random; its line has the field sampled with this number. All other requests still have their lines: those that were fetched, served stale, refused, failed or aborted. Metrics count every request."`
	ShutdownDelay   time.Duration `name:"shutdown-delay" default:"0s" min:"0" help:"How long the server continues after the stop signal while /readyz answers 503, so that load balancers stop sending requests. A second signal stops it at once."`
	ShutdownTimeout time.Duration `name:"shutdown-timeout" default:"30s" help:"How long transfers may continue after the stop signal."`
}

// Setting describes one field of Config.
type Setting struct {
	Name, Default, Help string
	Value               string   // the name of its value in --help
	Env                 string   // its variable
	GoEnv               []string // the go command's variables with the same meaning
	Enum                []string // the only values; nil: any
	Min, Max            int      // of a number; Min also of a duration: 0 is allowed, or not
	Reload              bool     // SIGHUP is enough
	Secret              bool     // it may have a URL with credentials
	field               reflect.StructField
}

// TOML returns the setting's key in the file.
func (s Setting) TOML() string { return strings.ReplaceAll(s.Name, "-", "_") }

// FileEnv returns the variable with the name of a file that has the value, "" if there is none.
func (s Setting) FileEnv() string {
	if !s.Secret {
		return ""
	}
	return s.Env + "_FILE"
}

// Settings returns the description of every setting, in the order of Config.
func Settings() []Setting {
	t := reflect.TypeFor[Config]()
	var all []Setting
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		s := Setting{
			Name: tag.Get("name"), Default: tag.Get("default"), Help: tag.Get("help"), Value: tag.Get("value"),
			GoEnv: List(tag.Get("go")), Enum: List(tag.Get("enum")), Min: number(tag.Get("min"), 1), Max: number(tag.Get("max"), mostNumber),
			Reload: tag.Get("reload") == "yes", Secret: tag.Get("secret") == "yes", field: t.Field(i),
		}
		if s.Value == "" {
			s.Value = valueName(s.field.Type)
		}
		s.Env = "ASSAY_" + strings.ToUpper(s.TOML())
		all = append(all, s)
	}
	return all
}

// Variables returns the names of all variables that set a setting, the strongest first.
func (s Setting) Variables() []string {
	all := []string{s.Env}
	if s.Secret {
		all = append(all, s.FileEnv())
	}
	return append(all, s.GoEnv...)
}

// mostNumber is the greatest value of a numeric setting: more is a mistake, and the same number of
// MiB, the largest unit of a setting, still fits into an integer as bytes.
const mostNumber = 1 << 30

// number returns the number in a tag.
func number(tag string, otherwise int) int {
	if n, err := strconv.Atoi(tag); err == nil {
		return n
	}
	return otherwise
}

// valueName returns the name that --help has for a value of a kind that is not text.
func valueName(kind reflect.Type) string {
	switch {
	case kind == reflect.TypeFor[time.Duration]():
		return "DURATION"
	case kind == reflect.TypeFor[Size]():
		return "SIZE"
	case kind.Kind() == reflect.Bool:
		return "BOOL"
	}
	return "N"
}

// Sources has the source of each setting of a Config, by name.
type Sources map[string]string

// List returns the elements of a setting that are separated by commas.
func List(text string) []string {
	return slices.DeleteFunc(strings.Split(text, ","), func(s string) bool { return s == "" })
}

// Level returns the minimum level of logged lines.
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

// TokenFile returns the name of the file with the tokens.
func (c Config) TokenFile() string {
	if c.Tokens != "" {
		return c.Tokens
	}
	return filepath.Join(c.Data, "tokens")
}
