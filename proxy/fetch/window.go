package fetch

import (
	"hash/maphash"
	"strings"
)

// breakerClients is how many clients must have got no answer.
const breakerClients = 3

// window holds the results of the last fetches from an upstream.
type window struct {
	limits Breaker
	seed   maphash.Seed
	last   []fetched // a ring
	next   int       // in last
}

// fetched is one fetch.
type fetched struct {
	client, module uint64 // hashes
	lost           bool   // it got no answer
}

// add counts a fetch of path for a client.
func (w *window) add(client, path string, lost bool) {
	f := fetched{maphash.String(w.seed, client), maphash.String(w.seed, moduleOf(path)), lost}
	if len(w.last) < w.limits.Window {
		w.last = append(w.last, f)
	} else {
		w.last[w.next%len(w.last)] = f
		w.next++
	}
}

// clear forgets all fetches.
func (w *window) clear() { w.last, w.next = nil, 0 }

// mostLost reports whether so many of the last fetches got no answer, for so many clients and
// modules, that the upstream must be the reason. One client can choose all modules and fill the
// window, so it has one vote: most clients must have lost most of their fetches.
func (w *window) mostLost() bool {
	type count struct{ lost, all int }
	var total count
	clients, modules := map[uint64]count{}, map[uint64]struct{}{}
	for _, f := range w.last {
		n := clients[f.client]
		n.all, total.all = n.all+1, total.all+1
		if f.lost {
			n.lost, total.lost = n.lost+1, total.lost+1
			modules[f.module] = struct{}{}
		}
		clients[f.client] = n
	}
	votes := 0
	most := func(lost, all int) bool { return lost*100 >= w.limits.Share*all }
	for _, n := range clients {
		if most(n.lost, n.all) {
			votes++
		}
	}
	return most(total.lost, total.all) && len(modules) >= w.limits.Minimum &&
		votes >= breakerClients && most(votes, len(clients))
}

// moduleOf returns the module that path names, or path if it names none.
func moduleOf(path string) string {
	if _, lookup, ok := strings.Cut(path, "lookup/"); ok {
		path = lookup
	}
	module, _, _ := strings.Cut(path, "/@")
	module, _, _ = strings.Cut(module, "@")
	return module
}
