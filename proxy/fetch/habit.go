package fetch

import (
	"net/http"
	"time"
)

// lifeFresh is how recent an answer to a client's request must be to prove that an upstream works
// although it answers its probe with 500.
const lifeFresh = 10 * time.Second

// habit is how an upstream answers its probe while it works. Some upstreams answer 500 to every
// request for an object that they do not have, and so to every probe; that they answer clients is
// the better proof.
type habit struct {
	normal  int       // the status of the probe when clients are answered; 0: none
	doubted int       // a status of the probe that may be normal; 0: none
	since   time.Time // when that was doubted
	lived   time.Time // when a client's request was last answered below 500
}

// judge returns the verdict on the upstream after a probe that was sent at began. The answers of a
// gateway whose upstream is down (502, 503, 504) become normal only if the probe got no other
// answer for as long as the breaker was open, and clients were answered afterwards all the same.
func (h *habit) judge(found finding, began time.Time) verdict {
	if found.verdict == alive {
		h.normal, h.doubted = 0, 0
	}
	if found.verdict != dead {
		return found.verdict
	}
	verdict := dead
	if h.lived.After(began) {
		verdict = alive // a client was answered meanwhile
	}
	if found.status == 0 {
		return verdict
	}
	if time.Since(h.lived) < lifeFresh && !h.lived.IsZero() && (isHabit(found.status) || found.status == h.doubted && h.lived.After(h.since)) {
		h.normal = found.status
	}
	if found.status == h.normal {
		return alive
	}
	return verdict
}

// doubt notes that probes got only this status for so long that the upstream gets requests again,
// to see whether it answers clients.
func (h *habit) doubt(status int) { h.doubted, h.since = status, time.Now() }

// isHabit reports whether an upstream may answer with status for every object that it does not
// have.
func isHabit(status int) bool {
	return status == http.StatusInternalServerError || status == http.StatusNotImplemented
}

// verdict is the result of a probe.
type verdict int

const (
	unknown verdict = iota // never probed, or this machine could not connect
	alive
	dead
)

// finding is the result of a probe's requests.
type finding struct {
	verdict verdict
	status  int  // of the last answer, 0 if there was none
	late    bool // its time ran out
}
