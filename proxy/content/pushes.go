package content

import (
	"sync"
	"time"

	"github.com/assay-proxy/assay/proxy/vcs"
)

// pushes remembers when webhooks reported changes of repositories. Earlier answers are
// then no longer current. It has a map of its own instead of a memo.Map, which forgets what
// it drops: a dropped time must still count, for all repositories.
type pushes struct {
	mu   sync.Mutex
	last time.Time            // of any repository
	all  time.Time            // the latest of those that were dropped
	repo map[string]time.Time // by vcs.CanonicalRepository
}

// maxPushes limits the memory to some 2 MiB, see maxAbsent. Beyond it all answers count
// as outdated.
const maxPushes = 4000

// maxPushed is the longest name of a repository that is remembered.
const maxPushed = 500

func (p *pushes) note(urls []string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = now
	if len(p.repo) >= maxPushes {
		p.repo, p.all = nil, now
	}
	if p.repo == nil {
		p.repo = map[string]time.Time{}
	}
	for _, url := range urls {
		if repo := vcs.CanonicalRepository(url); repo != "" && len(repo) <= maxPushed {
			p.repo[repo] = now
		}
	}
}

// of returns the last change of repo, the zero time if there is none. The repository of a
// module may be unknown, ""; then the last change of any repository counts.
func (p *pushes) of(repo string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if repo == "" {
		return p.last
	}
	if last := p.repo[repo]; last.After(p.all) {
		return last
	}
	return p.all
}
