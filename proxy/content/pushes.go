package content

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/proxy/vcs"
)

// pushes remembers when webhooks reported changes of repositories. Earlier answers are
// then no longer current. It has a map of its own instead of a memo.Map, which forgets what
// it drops: a dropped push must still count, for all repositories.
type pushes struct {
	mu   sync.Mutex
	seen int64           // the highest number of a push that is noted
	last push            // of any repository
	all  push            // the latest of those that were dropped
	repo map[string]push // by vcs.CanonicalRepository
}

// push is a change of a repository; the zero value is none. The clocks of replicas differ, so they tell each
// other numbers: a push has a higher one than all before, and an answer has that of the last push that was
// noted when it was asked for.
type push struct {
	number int64     // 0 if only this replica knows it, because it is alone or the store was away
	at     time.Time // when this replica was told; the zero time if there is a number
}

// latest returns a push whose number and time are the latest of two.
func (p push) latest(other push) push {
	p.number = max(p.number, other.number)
	if other.at.After(p.at) {
		p.at = other.at
	}
	return p
}

// without returns p without its time, if that is it.
func (p push) without(at time.Time) push {
	if p.at.Equal(at) {
		p.at = time.Time{}
	}
	return p
}

// maxPushes limits the memory to some 2 MiB, see maxAbsent. Beyond it all answers count
// as outdated.
const maxPushes = 4000

// maxPushed is the longest name of a repository that is remembered.
const maxPushed = 500

// pushedRepositories returns the repositories, each once, that have the URLs.
func pushedRepositories(urls []string) (repos []string) {
	known := map[string]bool{}
	for _, url := range urls {
		if repo := vcs.CanonicalRepository(url); repo != "" && len(repo) <= maxPushed && !known[repo] {
			known[repo] = true
			repos = append(repos, repo)
		}
	}
	return repos
}

// note notes a push to repositories.
func (p *pushes) note(repos []string, new push) { p.noteInstead(repos, new, time.Time{}) }

// noteInstead notes a push that was noted by its time before it had a number.
func (p *pushes) noteInstead(repos []string, new push, before time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = max(p.seen, new.number)
	p.last = p.last.without(before).latest(new)
	if len(p.repo) >= maxPushes {
		p.repo, p.all = nil, p.last
	}
	if p.repo == nil {
		p.repo = map[string]push{}
	}
	for _, repo := range repos {
		p.repo[repo] = p.repo[repo].without(before).latest(new)
	}
}

// noteAll notes that there may have been pushes to any repository, the last of which has a number.
func (p *pushes) noteAll(number int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = max(p.seen, number)
	p.last, p.all = p.last.latest(push{number: number}), p.all.latest(push{number: number})
}

// noted returns the highest number of a push that is noted: an answer that is asked for from now on shows
// all pushes up to it.
func (p *pushes) noted() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// of returns the last change of repo, the zero value if there is none. The repository of a
// module may be unknown, ""; then the last change of any repository counts.
func (p *pushes) of(repo string) push {
	p.mu.Lock()
	defer p.mu.Unlock()
	if repo == "" {
		return p.last
	}
	return p.repo[repo].latest(p.all)
}

// pushSubject is the subject of the news about a push.
func pushSubject(number int64, repo string) string { return strconv.FormatInt(number, 10) + " " + repo }

// parsePush is the inverse of pushSubject.
func parsePush(subject string) (number int64, repo string, ok bool) {
	digits, repo, ok := strings.Cut(subject, " ")
	number, err := strconv.ParseInt(digits, 10, 64)
	return number, repo, ok && err == nil
}
