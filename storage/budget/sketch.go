package budget

import "hash/maphash"

const (
	// sketchRows is how many counters each name has. The least of them counts, so that names that share one
	// or two are told apart.
	sketchRows = 4

	// sketchWidth is the number of counters in a row. With 131,072 of them, which take half a megabyte
	// together, the counts of some hundred thousand names are nearly exact.
	sketchWidth = 1 << 17

	// mostUses is the largest count.
	mostUses = 15
)

// sketch counts how often names were used, in bounded memory, also of names that are not stored: what was
// evicted and is requested again and again must win at last. It is a count-min sketch with conservative
// updates, as TinyLFU has it (arxiv.org/abs/1512.00727).
type sketch struct {
	seed     maphash.Seed
	counters [sketchRows][sketchWidth]uint8
}

func newSketch() *sketch { return &sketch{seed: maphash.MakeSeed()} }

// places returns the counter of a name in each row.
func (s *sketch) places(name string) (at [sketchRows]uint32) {
	sum := maphash.String(s.seed, name)
	low, high := uint32(sum), uint32(sum>>32)|1
	for i := range at {
		at[i] = (low + uint32(i)*high) % sketchWidth
	}
	return at
}

// uses returns how often a name was used, at most mostUses.
func (s *sketch) uses(name string) (n uint8) {
	n = mostUses
	for row, i := range s.places(name) {
		n = min(n, s.counters[row][i])
	}
	return n
}

// add counts a use of a name. Only its least counters are raised: the others count other names, too.
func (s *sketch) add(name string) {
	n := min(s.uses(name)+1, mostUses)
	for row, i := range s.places(name) {
		s.counters[row][i] = max(s.counters[row][i], n)
	}
}

// set makes the count of a name at least n.
func (s *sketch) set(name string, n uint8) {
	for row, i := range s.places(name) {
		s.counters[row][i] = max(s.counters[row][i], min(n, mostUses))
	}
}

// halve halves all counts, so that what was popular long ago is forgotten.
func (s *sketch) halve() {
	for row := range s.counters {
		for i := range s.counters[row] {
			s.counters[row][i] /= 2
		}
	}
}
