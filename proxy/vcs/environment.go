package vcs

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// environment returns the whole environment of the go command, and a function to call when
// it has ended.
func (r *run) environment(ctx context.Context) (env []string, done func(), err error) {
	t, home := r.target, r.programs.home
	host := t.host()
	if t.repo.url.Port() == "" {
		host += ":443"
	}
	forGo, revokeGo := r.proxy.issue(grant{repo: t.repo, reach: t.job.reach})
	forGit, revokeGit := r.proxy.issue(grant{repo: t.repo, reach: t.job.reach, git: true, host: host})
	done = func() { revokeGo(); revokeGit() }
	env = append(home.environment(),
		"GOMODCACHE="+r.clone.dir, "GOPATH="+r.temp(), "TMPDIR="+r.temp(), "TMP="+r.temp(), "TEMP="+r.temp(),
		"GOCACHE="+home.goCache(), "GOENV=off", "GOFLAGS=-mod=mod -modcacherw", "GO111MODULE=on",
		"GOWORK=off", "GOPROXY=direct", "GOSUMDB=off", "GOTOOLCHAIN=local", "GOAUTH=off",
		"GOVCS=*:"+strings.Join(r.systems, "|"),
		"HTTP_PROXY="+forGo, "HTTPS_PROXY="+forGo,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never",
		"GIT_TRACE2_EVENT="+r.trace())
	if !t.repo.static {
		// The go-import page comes from our git proxy, which has no certificate.
		env = append(env, "GOINSECURE="+t.repo.root)
	}
	settings := gitSettings(t.remote().Scheme, forGit)
	if home.roots != "" {
		// The file has all authorities: without sslCAPath git would look for more.
		settings = append(settings, [2]string{"http.sslCAInfo", home.roots}, [2]string{"http.sslCAPath", home.empty()})
	}
	switch {
	case t.usesSSH():
		command, err := r.ssh.command(ctx, t)
		if err != nil {
			done()
			return nil, nil, err
		}
		env = append(env, "GIT_SSH_COMMAND="+command, "GIT_SSH_VARIANT=ssh")
		settings = append(settings, insteadOf(t)...)
	case t.auth != nil && t.auth.Header != "":
		settings = append(settings, [2]string{"http." + t.repo.url.Scheme + "://" + t.host() + "/.extraHeader", "Authorization: " + t.auth.Header})
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(settings)))
	for i, setting := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, setting[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, setting[1]))
	}
	return env, done, nil
}

// insteadOf returns the settings that make git use SSH instead of https.
func insteadOf(t target) (settings [][2]string) {
	remote, url := t.remote().String(), t.repo.url.String()
	if remote == url {
		return nil
	}
	settings = append(settings, [2]string{"url." + remote + ".insteadOf", url})
	if short, ok := strings.CutSuffix(url, "."+t.repo.system); ok && t.repo.static {
		// For a path with .git in it the go command makes a URL without.
		settings = append(settings, [2]string{"url." + remote + ".insteadOf", short})
	}
	return settings
}

// gitSettings are git's whole configuration. git may use only the protocol of the remote:
// where https fails, the go command would try ssh, as the user of this machine and with
// any address that the name then has.
func gitSettings(scheme, proxy string) [][2]string {
	return [][2]string{
		{"protocol.allow", "never"}, {"protocol." + scheme + ".allow", "always"},
		{"http.proxy", proxy}, {"http.proxyAuthMethod", "basic"}, {"http.followRedirects", "initial"},
		{"http.lowSpeedLimit", "1"}, {"http.lowSpeedTime", "60"},
		{"credential.helper", ""}, {"core.askPass", ""}, {"core.hooksPath", os.DevNull}, {"core.fsmonitor", "false"},
		{"fetch.recurseSubmodules", "false"}, {"submodule.recurse", "false"}, {"transfer.bundleURI", "false"},
		{"init.templateDir", ""}, // its examples of hooks would be in each clone
		// Background processes would be killed in the middle of their work.
		{"gc.autoDetach", "false"}, {"maintenance.autoDetach", "false"},
	}
}
