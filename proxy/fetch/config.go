package fetch

import (
	"log/slog"
	"time"
)

// Config says how a chain is made. The zero value of every field but List means
// its default.
type Config struct {
	// List is a list in the syntax of GOPROXY, see ParseList.
	List string

	// CAFile is a PEM file with certificate authorities that are trusted
	// besides the system's.
	CAFile string

	// Database is the name of the checksum database that the upstreams may serve.
	// They are asked for it to see whether they live; if it is empty, or they fail
	// for it, for their root.
	Database string

	// Budget bounds each phase of a fetch.
	Budget Budget

	// Breaker says when an upstream is not asked any more.
	Breaker Breaker

	// Retries is how often an upstream is asked for one object before it
	// counts as unavailable, the first time included. The default is 3.
	Retries int

	// UserAgent is sent with each request. The default is "assay".
	UserAgent string

	// Via is the value of the Via header of each request, by which a proxy
	// finds its own requests coming back. The default is to send none.
	Via string

	// Self are the addresses, host:port, at which this program is reached. A
	// list that leads to one of them is refused. An empty or unspecified
	// host stands for every address of this machine.
	Self []string

	// RedirectHosts are hosts, or host:port, to which upstreams may redirect
	// whatever the address is. Other redirects are followed to public addresses;
	// besides, an upstream inside may redirect to another one of the list.
	RedirectHosts []string

	// Permit is asked right before each request to an upstream, also before
	// another attempt and before the next entry of the list, with its path: one
	// of the GOPROXY protocol, or one below the root of a checksum database that
	// is asked directly. An error of it is in that of the fetch, and ends it. The
	// default is to permit all.
	Permit func(path string) error

	// Logger gets retries at debug level and changes of circuit breakers at
	// warning level. The default is to discard them.
	Logger *slog.Logger
}

// Budget bounds the time of each phase. Zero means the default.
type Budget struct {
	Connect   time.Duration // name resolution and TCP; 5 s
	TLS       time.Duration // handshake; 5 s
	FirstByte time.Duration // from the request to the headers of the answer, for each hop; 8 s
	IdleBody  time.Duration // without a byte of the body; 10 s

	// Answer is everything until Fetch returns, or ReadAll, or what SumDB
	// returns: all attempts at all entries of the list, and the pauses
	// between them; 25 s.
	Answer time.Duration
}

func (b Budget) withDefaults() Budget {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&b.Connect, 5 * time.Second}, {&b.TLS, 5 * time.Second}, {&b.FirstByte, 8 * time.Second},
		{&b.IdleBody, 10 * time.Second}, {&b.Answer, 25 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return b
}

// Breaker says when an upstream is not asked any more. Zero means the default.
//
// A failed fetch never opens the breaker of an upstream: what is asked for is chosen by
// clients. It causes a neutral probe, and the breaker opens if that fails too; or if so
// many fetches, of many modules and for many clients, get no answer that it cannot be the
// choice of one of them. It closes when a probe succeeds.
type Breaker struct {
	Share   int           // percent of the last fetches that get no answer; 50
	Window  int           // how many the last ones are, at most; 100
	Minimum int           // of so many different modules at least; 20
	Open    time.Duration // from one probe to the next; 5 s
}

func (b Breaker) withDefaults() Breaker {
	for _, n := range []struct {
		field *int
		value int
	}{{&b.Share, 50}, {&b.Window, 100}, {&b.Minimum, 20}} {
		if *n.field <= 0 {
			*n.field = n.value
		}
	}
	if b.Open <= 0 {
		b.Open = 5 * time.Second
	}
	return b
}
