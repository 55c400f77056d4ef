package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// defaultUpstream is the go command's own default proxy. It is here only, which
// is why the setting's tag does not have it.
const defaultUpstream = "https://proxy.golang.org"

// config is every setting there is. The tags are the manual: --help,
// docs/configuration.md and the sample that assay config prints are made of
// them. A setting comes from its flag, else from its environment variable
// (ASSAY_ and its name), else from the file, else from the variable of the go
// command that means the same, else it is the default.
type config struct {
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

// setting describes one field of config.
type setting struct {
	Name, Default, Help string
	Env                 string   // its variable
	GoEnv               []string // the go command's variables that mean the same
	Reload              bool     // SIGHUP is enough
	Zero                bool     // 0 means none
	field               int
	kind                reflect.Type
}

// TOML returns the setting's key in the file.
func (s setting) TOML() string { return strings.ReplaceAll(s.Name, "-", "_") }

// settings returns the description of every setting, in the order of config.
func settings() []setting {
	t := reflect.TypeFor[config]()
	var all []setting
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		s := setting{
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

// origins says where each setting of a config came from, by name.
type origins map[string]string

// addFlags adds a flag for each setting, or for those that are named, and one for
// the file. The flags are strings (or, for switches, may be): loadConfig gives
// them their meaning, the same as everywhere else.
func addFlags(flags *pflag.FlagSet, names ...string) {
	flags.SortFlags = false // what matters most comes first
	flags.Var(&flagText{kind: "FILE"}, "config", "TOML file with settings; assay config prints one. (ASSAY_CONFIG)")
	for _, s := range settings() {
		if names != nil && !slices.Contains(names, s.Name) {
			continue
		}
		usage := fmt.Sprintf("%s (%s)", s.Help, strings.Join(append([]string{s.Env}, s.GoEnv...), ", "))
		flags.Var(&flagText{s.Default, placeholder(s)}, s.Name, usage)
		if s.kind.Kind() == reflect.Bool {
			flags.Lookup(s.Name).NoOptDefVal = "true"
		}
	}
}

// flagText is the value of a flag, which --help calls by its kind.
type flagText struct{ text, kind string }

func (f *flagText) String() string        { return f.text }
func (f *flagText) Set(text string) error { f.text = text; return nil }
func (f *flagText) Type() string          { return f.kind }

func placeholder(s setting) string {
	switch {
	case s.kind == reflect.TypeFor[time.Duration]():
		return "DURATION"
	case s.kind.Kind() == reflect.Int:
		return "N"
	case s.kind.Kind() == reflect.Bool:
		return "BOOL"
	}
	switch s.Name {
	case "listen":
		return "ADDR"
	case "log-level":
		return "LEVEL"
	case "netrc", "credentials", "hook-secret-file", "log-guard", "htpasswd", "groups", "tokens", "oidc", "tls-cert", "tls-key", "tls-client-ca":
		return "FILE"
	case "access":
		return "RULES"
	case "operators":
		return "GROUPS"
	case "vcs-hosts", "redirect-hosts":
		return "HOSTS"
	case "trusted-proxies":
		return "NETWORKS"
	case "data":
		return "DIR"
	case "upstream":
		return "GOPROXYLIST"
	case "sumdb":
		return "GOSUMDB"
	case "mirror":
		return "KEYS"
	case "private":
		return "PATTERNS"
	case "ca-file":
		return "FILE"
	case "log-format":
		return "FORMAT"
	default:
		return "NAME"
	}
}

// loadConfig returns the effective configuration and where each setting of it
// came from. The environment is what getenv says.
func loadConfig(flags *pflag.FlagSet, getenv func(string) string) (config, origins, error) {
	file, fileName, err := readConfigFile(flags, getenv)
	if err != nil {
		return config{}, nil, err
	}
	var c config
	from := origins{}
	for _, s := range settings() {
		text, origin := choose(s, flags, getenv, file, fileName)
		if err := set(reflect.ValueOf(&c).Elem().Field(s.field), text); err != nil {
			return config{}, nil, fmt.Errorf("%s (from %s): %w", s.Name, origin, err)
		}
		from[s.Name] = origin
	}
	if err := c.check(); err != nil {
		return config{}, nil, err
	}
	return c, from, nil
}

// choose returns the text of a setting and where it came from.
func choose(s setting, flags *pflag.FlagSet, getenv func(string) string, file map[string]string, fileName string) (text, origin string) {
	if f := flags.Lookup(s.Name); f != nil && f.Changed {
		return f.Value.String(), "flag --" + s.Name
	}
	if text := getenv(s.Env); text != "" {
		return text, "environment " + s.Env
	}
	if text, ok := file[s.TOML()]; ok {
		return text, "file " + fileName
	}
	if text, names := goSetting(s, getenv); text != "" {
		return text, "environment " + names
	}
	return s.Default, "default"
}

// goSetting returns what the go command's own variables say. Of the three that
// hold patterns all count: each of them names something that must not leave. The
// direct at the end of a GOPROXY is meant for the client, which still has it.
func goSetting(s setting, getenv func(string) string) (text, names string) {
	var values, used []string
	for _, name := range s.GoEnv {
		if value := getenv(name); value != "" {
			values, used = append(values, value), append(used, name)
		}
	}
	text = strings.Join(values, ",")
	if s.Name == "upstream" {
		text = withoutDirect(text)
	}
	return text, strings.Join(used, ", ")
}

// withoutDirect cuts a GOPROXY list at direct.
func withoutDirect(list string) string {
	rest := list
	for rest != "" {
		entry, after := rest, ""
		if i := strings.IndexAny(rest, ",|"); i >= 0 {
			entry, after = rest[:i], rest[i+1:]
		}
		if strings.TrimSpace(entry) == "direct" {
			return strings.TrimRight(list[:len(list)-len(rest)], ",| ")
		}
		rest = after
	}
	return list
}

// readConfigFile returns the settings of the file as text, by TOML key. An
// unknown key is an error.
func readConfigFile(flags *pflag.FlagSet, getenv func(string) string) (map[string]string, string, error) {
	name := getenv("ASSAY_CONFIG")
	if f := flags.Lookup("config"); f != nil && f.Changed {
		name = f.Value.String()
	}
	if name == "" {
		return nil, "", nil
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("configuration file %s does not exist", name)
	}
	if err != nil {
		return nil, "", fmt.Errorf("configuration file: %w", err)
	}
	values, err := parseConfigFile(data)
	if err != nil {
		return nil, "", fmt.Errorf("configuration file %s: %w", name, err)
	}
	return values, name, nil
}

// parseConfigFile returns the settings in a file as text, by TOML key.
func parseConfigFile(data []byte) (map[string]string, error) {
	var raw map[string]any
	if err := toml.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	known := map[string]setting{}
	for _, s := range settings() {
		known[s.TOML()] = s
	}
	values := map[string]string{}
	for key, value := range raw {
		s, ok := known[key]
		if !ok {
			return nil, fmt.Errorf("unknown setting %q; assay config prints all there are", key)
		}
		text, err := tomlText(s, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		values[key] = text
	}
	return values, nil
}

// tomlText returns a value of the file as the text of the setting.
func tomlText(s setting, value any) (string, error) {
	switch value := value.(type) {
	case string:
		if s.kind.Kind() == reflect.String || s.kind == reflect.TypeFor[time.Duration]() {
			return value, nil
		}
	case bool:
		if s.kind.Kind() == reflect.Bool {
			return strconv.FormatBool(value), nil
		}
	case int64:
		if s.kind.Kind() == reflect.Int {
			return strconv.FormatInt(value, 10), nil
		}
	}
	return "", fmt.Errorf("want a value like %s, not a %T", tomlValue(s, s.Default), value)
}

// tomlValue returns text as the file has it.
func tomlValue(s setting, text string) string {
	if s.kind.Kind() == reflect.Bool || s.kind.Kind() == reflect.Int {
		return text
	}
	line, err := toml.Marshal(map[string]string{"v": text})
	if err != nil { // not for a string
		return strconv.Quote(text)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(line), "v = "))
}

// set gives a field the value that text stands for.
func set(field reflect.Value, text string) error {
	switch field.Interface().(type) {
	case string:
		field.SetString(text)
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		field.SetBool(b)
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		field.SetInt(int64(n))
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration like 30s or 5m", text)
		}
		field.SetInt(int64(d))
	}
	return nil
}

// mostNumber is the greatest value of a setting that is a number: more is a mistake, and so
// many MiB, the largest unit of a setting, can still be calculated with as bytes.
const mostNumber = 1 << 30

// check refuses what would be dangerous or without effect. What the parts check
// themselves (patterns, lists, keys) is not checked here.
func (c config) check() error {
	v := reflect.ValueOf(c)
	for _, s := range settings() {
		switch value := v.Field(s.field).Interface().(type) {
		case time.Duration:
			if value < 0 {
				return fmt.Errorf("%s is %v; it must not be negative", s.Name, value)
			}
			if value == 0 && !s.Zero {
				return fmt.Errorf("%s is %v; it must be more than nothing", s.Name, value)
			}
		case int:
			if value <= 0 {
				return fmt.Errorf("%s is %d; it must be at least 1", s.Name, value)
			}
			if value > mostNumber {
				return fmt.Errorf("%s is %d; it must be at most %d", s.Name, value, mostNumber)
			}
		}
	}
	if c.MemoryBudget < leastMemory {
		return fmt.Errorf("memory-budget is %d MiB; it must be at least %d", c.MemoryBudget, leastMemory)
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		return fmt.Errorf("listen is %q; it must be host:port, or :port for every interface", c.Listen)
	}
	if c.Data == "" {
		return errors.New("data is empty; it must name a directory")
	}
	if !slices.Contains([]string{"text", "json"}, c.LogFormat) {
		return fmt.Errorf("log-format is %q; it must be text or json", c.LogFormat)
	}
	if _, err := logLevel(c.LogLevel); err != nil {
		return err
	}
	if c.BreakerShare > 100 {
		return fmt.Errorf("breaker-share is %d; it is percent", c.BreakerShare)
	}
	if c.BreakerWindow < c.BreakerMinimum {
		return fmt.Errorf("breaker-window is %d and breaker-minimum %d; so few fetches are never of so many modules", c.BreakerWindow, c.BreakerMinimum)
	}
	return c.checkPrivate()
}

// checkPrivate refuses what contradicts itself about private modules.
func (c config) checkPrivate() error {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls-cert and tls-key need each other")
	}
	if c.TLSClientCA != "" && c.TLSCert == "" {
		return errors.New("tls-client-ca needs tls-cert and tls-key: certificates of clients come with TLS")
	}
	if c.Unified && c.SumDB == "off" {
		return errors.New("unified needs a checksum database in sumdb: public modules are copied only after they were proved in it")
	}
	for _, names := range [][2]string{{"vcs", c.VCS}, {"vcs-hosts", c.VCSHosts}, {"redirect-hosts", c.RedirectHosts}, {"operators", c.Operators}} {
		name, text := names[0], names[1]
		if strings.ContainsFunc(text, unicode.IsSpace) || text != "" && len(list(text)) == 0 {
			return fmt.Errorf("%s is %q; it must be names separated by commas without spaces, or else some of it would mean nothing", name, text)
		}
	}
	for _, names := range [][2]string{{"vcs-hosts", c.VCSHosts}, {"redirect-hosts", c.RedirectHosts}} {
		for _, host := range list(names[1]) {
			if !isHost(host) {
				return fmt.Errorf("%s: %q is neither a host nor host:port; it would mean nothing", names[0], host)
			}
		}
	}
	if slices.Contains(list(c.Operators), "*") {
		return fmt.Errorf("operators is %q; no group is called *: name the groups that may read /-/leaks", c.Operators)
	}
	for network := range strings.SplitSeq(c.TrustedProxies, ",") {
		if _, err := netip.ParsePrefix(network); network != "" && err != nil {
			return fmt.Errorf("trusted-proxies: %q is no network like 10.0.0.0/8 or 192.0.2.1/32", network)
		}
	}
	return nil
}

// isHost reports whether text is a host, a name or an address, or host:port.
func isHost(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, "443"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// redacted reports whether text leaves something out.
func (c config) redacted(s setting) bool {
	text, ok := reflect.ValueOf(c).Field(s.field).Interface().(string)
	return ok && text != c.text(s)
}

// text returns the value of a setting as text, without credentials.
func (c config) text(s setting) string {
	value := reflect.ValueOf(c).Field(s.field).Interface()
	if d, ok := value.(time.Duration); ok {
		return shortDuration(d)
	}
	text := fmt.Sprint(value)
	if s.Name == "upstream" || s.Name == "sumdb" || s.Name == "mirror" {
		return fetch.Redact(text)
	}
	return text
}

// shortDuration is d.String without the zeros: 1m, not 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
