package places

import (
	"context"
	"time"
)

// state is the state of a claim.
type state uint8

const (
	waiting state = iota
	running
	aside // it has given its place back for a while
	ended
)

// work is what a claim is made for. The lock of its Places guards the fields below ready.
type work struct {
	who   For
	ready chan struct{} // closed when it has left the queue; another one after Aside

	state    state
	err      error          // the reason why it ended without a place
	clients  map[string]int // requests that wait for it, by client
	client   string         // the place is counted for it
	cancel   context.CancelCauseFunc
	yielding bool // it must give up its place
	firm     bool // it no longer yields
	pace     pace
}

// requests returns how many requests wait for the work.
func (w *work) requests() (n int) {
	for _, of := range w.clients {
		n += of
	}
	return n
}

// giveUp makes the work yield.
func (w *work) giveUp() {
	w.yielding = true
	if w.cancel != nil {
		w.cancel(ErrYielded)
	}
}

// class is a class of work, in the order in which work yields.
type class uint8

const (
	abandoned class = iota // no client waits for it
	crawling               // it yields to every claim
	sluggish               // it yields to claims of clients that hold fewer places
	keep                   // it never yields
)

// verdict says how soon work should yield its place.
type verdict struct {
	class class
	rate  float64 // bytes per second
	since time.Time
}

// before reports whether work with verdict v yields before work with verdict w.
func (v verdict) before(w verdict) bool {
	switch {
	case v.class != w.class:
		return v.class < w.class
	case v.rate != w.rate:
		return v.rate < w.rate
	default:
		return v.since.Before(w.since)
	}
}

// judge returns the verdict on the work.
func (w *work) judge(now time.Time, c Config) verdict {
	v := verdict{class: keep, since: w.pace.since}
	if w.firm || w.yielding {
		return v
	}
	if len(w.clients) == 0 {
		v.class = abandoned
		return v
	}
	rate, known := w.pace.rate(now, c)
	if v.rate = rate; known && rate < crawl {
		v.class = crawling
	} else if known && rate < slow {
		v.class = sluggish
	}
	return v
}
