package fetch

import (
	"log/slog"
	"time"
)

// Config configures a chain. The zero value of any field but List is its default.
type Config struct {
	// List is a list in the syntax of GOPROXY, see ParseList.
	List string

	// CAFile is a PEM file with certificate authorities that are trusted in addition to the
	// system's.
	CAFile string

	// Database is the name of the checksum database that the upstreams may serve. Probes request
	// it. If it is empty, or the request fails, they request the root.
	Database string

	// Budget bounds each phase of a fetch.
	Budget Budget

	// Breaker configures when an upstream gets no more requests.
	Breaker Breaker

	// Retries is how many requests for one object are sent to an upstream before it counts as
	// unavailable, including the first one. The default is 3.
	Retries int

	// UserAgent is sent with each request. The default is "assay".
	UserAgent string

	// Via is the value of the Via header of each request. By it, a proxy recognizes its own
	// requests when they come back. The default is to send none.
	Via string

	// Self are the addresses, host:port, of this program. A list that leads to one of them is
	// refused. An empty or unspecified host means every address of this machine.
	Self []string

	// RedirectHosts are hosts, or host:port, to which upstreams may redirect, whatever the address
	// is. Other redirects are followed only to public addresses; in addition, an upstream in the
	// internal network may redirect to another one of the list.
	RedirectHosts []string

	// Permit is called right before each request that sends the name of a module (see WithModule),
	// also before another attempt and before the next entry of the list. An error ends the fetch,
	// whose error wraps it. The default permits all requests.
	Permit func(modulePath string) error

	// Logger logs retries at debug level and state changes of circuit breakers at warning level.
	// The default is to discard them.
	Logger *slog.Logger
}

// Budget bounds the time of each phase. Zero means the default.
type Budget struct {
	Connect   time.Duration // name resolution and TCP; 5 s
	TLS       time.Duration // handshake; 5 s
	FirstByte time.Duration // from the request to the headers of the response, for each hop; 8 s
	IdleBody  time.Duration // without a byte of the body; 10 s

	// Answer bounds the whole call of Fetch, ReadAll, or a function that SumDB returns: all
	// attempts at all entries of the list, and the pauses between them; 25 s.
	Answer time.Duration

	// Pause is the pause before the second attempt; the next ones are 3, 9 and 10 times as long.
	// 0.2 s.
	Pause time.Duration
}

func (b Budget) withDefaults() Budget {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&b.Connect, 5 * time.Second}, {&b.TLS, 5 * time.Second}, {&b.FirstByte, 8 * time.Second},
		{&b.IdleBody, 10 * time.Second}, {&b.Answer, 25 * time.Second}, {&b.Pause, 200 * time.Millisecond},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return b
}

// Breaker configures when an upstream gets no more requests. Zero means the default.
//
// A single failed fetch never opens the breaker of an upstream, because clients choose which
// objects to request. It starts a neutral probe, and the breaker opens if that fails, too. The
// breaker also opens if so many fetches, of many modules and for many clients, get no answer that
// no single client can be the reason. It closes when a probe succeeds.
type Breaker struct {
	Share   int           // percent of the last fetches that get no answer; 50
	Window  int           // the number of last fetches that count, at most; 100
	Minimum int           // the number of different modules among them, at least; 20
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
