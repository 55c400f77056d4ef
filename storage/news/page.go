package news

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Event is one piece of news.
type Event struct {
	Kind    string // a word, such as push; who subscribes and who posts agree on it
	Subject string // what has changed, one line of at most 1 KiB; "" means everything of the kind
}

// page is the text of the state: the newest events. Its lines are
//
//	news ID NEXT TIP
//	NUMBER MILLISECONDS BEFORE KIND SUBJECT
//
// with the random ID of the board, the number of the next event, a random tip that each post replaces, and for each
// event its number, its time, and the tip before it. So a page that was set back and has other events since does not
// continue what a reader has seen, whatever its numbers are. Pages of earlier versions have neither TIP nor BEFORE.
type page struct {
	id    string
	next  int64
	tip   string // noTip: an earlier version has written the page
	items []item
}

type item struct {
	number int64
	millis int64  // since 1970, by the clock of the replica that posted it
	before string // the tip of the page to which the event was added; of the later ones of a post, the new tip
	event  Event
}

// noTip stands for a tip that an earlier version has not written.
const noTip = "-"

const (
	mostItems   = 400
	mostSubject = 1 << 10

	// kept is how long an event stays on the page. A replica that does not look for so long looks at everything.
	kept = time.Minute
)

func (p page) encode() []byte {
	text := fmt.Appendf(nil, "news %s %d %s\n", p.id, p.next, cmp.Or(p.tip, noTip))
	for _, i := range p.items {
		text = fmt.Appendf(text, "%d %d %s %s %s\n", i.number, i.millis, cmp.Or(i.before, noTip), i.event.Kind, i.event.Subject)
	}
	return text
}

// decode is the inverse of encode. A text that is not a page is the empty page, and so is one of a later version.
func decode(text []byte) page {
	var p page
	tips := 1 // how many fields of a line are tips
	for n, line := range slices.Collect(strings.Lines(string(text))) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4+tips)
		if n == 0 {
			var err error
			if len(fields) == 3 {
				fields, tips = append(fields, noTip), 0
			}
			if len(fields) != 4 || fields[0] != "news" {
				return page{}
			}
			if p.next, err = strconv.ParseInt(fields[2], 10, 64); err != nil {
				return page{}
			}
			p.id, p.tip = fields[1], fields[3]
			continue
		}
		if tips == 0 && len(fields) == 4 {
			fields = slices.Insert(fields, 2, noTip)
		}
		if len(fields) != 5 {
			return page{}
		}
		number, err1 := strconv.ParseInt(fields[0], 10, 64)
		millis, err2 := strconv.ParseInt(fields[1], 10, 64)
		if err1 != nil || err2 != nil {
			return page{}
		}
		p.items = append(p.items, item{number, millis, fields[2], Event{fields[3], fields[4]}})
	}
	return p
}

// with returns p with events, without those that are old or too many.
func (p page) with(events []Event, now time.Time) page {
	items := slices.Clone(p.items)
	before := cmp.Or(p.tip, noTip)
	p.tip = rand.Text()
	for _, e := range events {
		items = append(items, item{p.next, now.UnixMilli(), before, e.tidy()})
		before = p.tip // no reader has seen the page between two events of a post
		p.next++
	}
	oldest := now.Add(-kept).UnixMilli()
	items = slices.DeleteFunc(items, func(i item) bool { return i.millis < oldest })
	if extra := len(items) - mostItems; extra > 0 {
		items = items[extra:]
	}
	p.items = items
	return p
}

// tidy returns e with a subject that fits into a line; one that does not fit is everything.
func (e Event) tidy() Event {
	if len(e.Subject) > mostSubject || strings.ContainsFunc(e.Subject, unicode.IsControl) {
		e.Subject = ""
	}
	return e
}

// since returns the events that are on p and were not on old. It reports whether some may be missing: because they
// are not on p any more, or because the state was set back or replaced.
func (p page) since(old page) (events []Event, missed bool) {
	if !p.continues(old) {
		return nil, true
	}
	want := old.next
	for _, i := range p.items {
		if i.number < old.next {
			continue
		}
		if i.number != want {
			return nil, true
		}
		want++
		events = append(events, i.event)
	}
	return events, want != p.next
}

// continues reports whether p may be old with later events. It is not if the state was set back or replaced.
func (p page) continues(old page) bool {
	if p.id != old.id || p.next < old.next {
		return false
	}
	tip := p.tip
	if p.next > old.next {
		at := slices.IndexFunc(p.items, func(i item) bool { return i.number == old.next })
		if at < 0 {
			return true // the event has left the page, as since finds out
		}
		tip = p.items[at].before
	}
	return cmp.Or(tip, noTip) == cmp.Or(old.tip, noTip)
}
