package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// noise measures what the machine adds: it compares programs with themselves. The noise of builds is
// measured with them.
type noise struct{ b *bench }

func (n noise) measures() []measure {
	return []measure{
		{"noise: requests/s, bare net/http handler, 800 bytes from memory, one core", "the same", "–", n.small},
		{"noise: requests/s, http.ServeContent of a 60 MB file, two cores, four connections", "the same", "–", n.large},
	}
}

func (n noise) small() (result, error) {
	s := spec{Path: "/small", Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte(strings.Repeat("8 bytes\n", 100))}
	return n.compare(true, s, hot{n.b}.alone)
}

func (n noise) large() (result, error) {
	dir, err := n.b.newDir()
	if err != nil {
		return result{}, err
	}
	name := filepath.Join(dir, "large")
	if err := os.WriteFile(name, make([]byte, 60_000_000), 0o644); err != nil {
		return result{}, err
	}
	return n.compare(false, spec{Path: "/large", File: name}, hot{n.b}.four)
}

// compare compares two processes of the yardstick.
func (n noise) compare(oneCore bool, s spec, rate rate) (result, error) {
	var sides [2]func() (float64, error)
	for i := range sides {
		p, err := n.b.startBase(oneCore, s)
		if err != nil {
			return result{}, err
		}
		defer p.stop()
		sides[i] = func() (float64, error) { return rate(p.url + s.Path) }
	}
	r, err := pairs(n.b.rounds, sides[0], sides[1])
	if err != nil {
		return result{}, err
	}
	return r.noGoal(), nil
}
