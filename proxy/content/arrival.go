package content

import "time"

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
		err = &SlowError{Key: a.fill.key, Got: a.got, Size: a.fill.size, Took: took.Round(time.Second), Limit: zipFillTime}
	}
	return n, err
}

// tooSlow reports whether what has come in took falls short of the rate at which the zip,
// if its size is known, would be whole within zipFillTime.
func (a *arrival) tooSlow(took time.Duration) bool {
	return took > slowStart && float64(a.got)/took.Seconds() < float64(a.fill.size)/zipFillTime.Seconds()
}
