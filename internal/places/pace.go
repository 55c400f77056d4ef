package places

import "time"

// Work that transfers fewer than crawl bytes per second yields to every claim; below slow
// it yields to claims of clients that hold fewer places. A link of 500 kB/s that is shared
// by sixteen transfers is not slow.
const (
	crawl = 4 << 10
	slow  = 32 << 10
)

// pace is the progress of work.
type pace struct {
	since    time.Time // when it got its place, or rested
	measured bool      // it has reported progress since
	bytes    int64
	last     time.Time // when it last reported progress
	from, to mark      // progress at two moments; if there are two, they are at least a window apart
}

// mark is the progress at a moment.
type mark struct {
	at    time.Time
	bytes int64
}

// add counts n more bytes.
func (p *pace) add(n int, window time.Duration) {
	now := time.Now()
	p.bytes, p.last = p.bytes+int64(n), now
	if !p.measured {
		p.measured = true
		p.to = mark{now, p.bytes}
		p.from = p.to
	}
	if now.Sub(p.to.at) >= window {
		p.from, p.to = p.to, mark{now, p.bytes}
	}
}

// rest begins the measurement again.
func (p *pace) rest() { p.since, p.measured = time.Now(), false }

// rate returns the recent bytes per second, and whether there is enough data.
func (p *pace) rate(now time.Time, c Config) (rate float64, known bool) {
	if !p.measured {
		return 0, c.Patience > 0 && now.Sub(p.since) >= c.Patience
	}
	took := now.Sub(p.from.at)
	if now.Sub(p.last) >= c.Window {
		return 0, true // it stalls, whatever its earlier rate
	}
	return float64(p.bytes-p.from.bytes) / took.Seconds(), took >= c.Window
}
