package content

import "time"

// arrival writes a zip into the draft of its fill, and aborts the fill if the zip arrives
// so slowly that it would not be complete in time, or if it is larger than a prediction may be.
type arrival struct {
	fill    *fill
	begun   time.Time
	storing time.Duration // part of the time since begun in which the store took the bytes: it may wait for room
	got     int64
}

// slowStart is how long a zip may take to reach its rate.
const slowStart = time.Minute

func newArrival(f *fill) *arrival { return &arrival{fill: f, begun: time.Now()} }

func (a *arrival) Write(p []byte) (int, error) {
	if a.fill.size < 0 {
		if err := a.fill.spend(int64(len(p))); err != nil {
			return 0, err
		}
	}
	storing := time.Now()
	n, err := a.fill.arrived.Write(p)
	a.storing += time.Since(storing)
	a.got += int64(n)
	a.fill.claim.Progress(n)
	if took := time.Since(a.begun) - a.storing; err == nil && a.tooSlow(took) {
		err = &SlowError{Key: a.fill.key, Got: a.got, Size: a.fill.size, Took: took.Round(time.Second), Limit: zipFillTime}
	}
	return n, err
}

// tooSlow reports whether the bytes that arrived within took are too few for the zip, if
// its size is known, to be complete within zipFillTime.
func (a *arrival) tooSlow(took time.Duration) bool {
	return took > slowStart && float64(a.got)/took.Seconds() < float64(a.fill.size)/zipFillTime.Seconds()
}
