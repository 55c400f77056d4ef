package places

import "time"

// Config says how many places there are and when work yields.
type Config struct {
	// N is the number of places; at least 1.
	N int

	// Patience is how long work without any progress keeps its place while claims wait.
	// 0: as long as a client waits for it.
	Patience time.Duration

	// Site returns the site of a client. A site has the limits of one client, because a
	// customer of a provider can make any number of clients. Default: each client is a
	// site of its own.
	Site func(client string) string

	// Window is the time over which the rate of progress is measured. Work is not judged
	// before it has passed. Default 3 s.
	Window time.Duration
}

// For says for what a claim is made.
type For struct {
	Client string // of the work
	Module string
	Host   string // of the module
}
