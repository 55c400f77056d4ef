package proxy

import (
	"fmt"
	"net/http"
	"time"
)

// arrival writes a zip into the spool of its fill, and gives the fill up if the zip comes
// so slowly that it would not be whole in time.
type arrival struct {
	fill  *fill
	begun time.Time
	got   int64
}

// slowStart is how long a zip may take to come to its rate.
const slowStart = time.Minute

func newArrival(f *fill) *arrival { return &arrival{fill: f, begun: time.Now()} }

func (a *arrival) Write(p []byte) (int, error) {
	n, err := a.fill.spool.Write(p)
	a.got += int64(n)
	a.fill.claim.Progress(n)
	if took := time.Since(a.begun); err == nil && a.tooSlow(took) {
		err = &failure{
			status: http.StatusGatewayTimeout, retryAfter: 30 * time.Second,
			what: "given up: " + a.fill.key + " arrives too slowly",
			why:  fmt.Sprintf("%d of %d bytes in %v; the whole zip would take longer than %v", a.got, a.fill.size, took.Round(time.Second), zipFillTime),
			next: "try again; if it persists, check the upstream or choose another with --upstream",
		}
	}
	return n, err
}

// tooSlow reports whether what has come in took falls short of the rate at which the zip,
// if its size is known, would be whole within zipFillTime.
func (a *arrival) tooSlow(took time.Duration) bool {
	return took > slowStart && float64(a.got)/took.Seconds() < float64(a.fill.size)/zipFillTime.Seconds()
}
