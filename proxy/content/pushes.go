package content

import (
	"sync"
	"time"

	"github.com/assay-proxy/assay/proxy/vcs"
)

// pushes remembers when repositories were said to have changed. What was asked
// before is then no longer current.
type pushes struct {
	mu   sync.Mutex
	last time.Time            // of any repository
	all  time.Time            // of those that are forgotten
	repo map[string]time.Time // by vcs.CanonicalRepository
}

// maxPushes bounds the memory to some 2 MiB, see maxAbsent. Beyond it everything is asked
// again.
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

// of returns when repo has changed last, the zero time if never. Of a module whose
// repository is not known, "", any may be it.
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
