package modzip_test

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// bitWriter writes bits, the lowest of each byte first.
type bitWriter struct {
	out []byte
	n   int // bits of the last byte that are in use; 0: all
}

func (w *bitWriter) bits(value uint32, n int) {
	for i := range n {
		if w.n == 0 {
			w.out = append(w.out, 0)
		}
		w.out[len(w.out)-1] |= byte(value>>i&1) << w.n
		w.n = (w.n + 1) % 8
	}
}

// code is a prefix code: the lengths of the codes of its symbols, 0 for those that have none, and the
// codes, the first bit lowest.
type code struct {
	lengths []int
	codes   []uint32
}

func newCode(lengths []int) code {
	c := code{lengths, make([]uint32, len(lengths))}
	next := uint32(0)
	for n := 1; n < 16; n++ {
		next <<= 1
		for s, length := range lengths {
			if length == n {
				c.codes[s] = bits.Reverse32(next) >> (32 - n)
				next++
			}
		}
	}
	return c
}

// randomLengths returns the lengths of a code of n symbols, with codes of up to most bits. It is
// complete, unless broken.
func randomLengths(random *rand.Rand, n, most int, broken bool) []int {
	leaves := []int{0} // of a tree
	for range random.IntN(n) {
		i := random.IntN(len(leaves))
		if random.IntN(2) == 0 {
			i = len(leaves) - 1 // for long codes
		}
		if leaves[i] < most {
			leaves[i]++
			leaves = append(leaves, leaves[i])
		}
	}
	lengths := make([]int, n)
	for i, at := range random.Perm(n)[:len(leaves)] {
		lengths[at] = leaves[i]
	}
	if len(leaves) == 1 { // no code, or one of one bit
		lengths[random.IntN(n)] = random.IntN(2)
	}
	if broken {
		lengths[random.IntN(n)] = random.IntN(most + 1)
	}
	return lengths
}

// write writes a symbol, if it has a code.
func (c code) write(w *bitWriter, symbol int) { w.bits(c.codes[symbol], c.lengths[symbol]) }

// used returns a symbol with a code, or any if there is none.
func (c code) used(random *rand.Rand) int {
	at := random.IntN(len(c.lengths))
	for i := range c.lengths {
		if s := (at + i) % len(c.lengths); c.lengths[s] > 0 {
			return s
		}
	}
	return at
}

// randomBlock writes a block with codes of its own.
func randomBlock(random *rand.Rand, w *bitWriter, final uint32) {
	literals := randomLengths(random, 257+random.IntN(32), 15, random.IntN(20) == 0)
	distances := randomLengths(random, 1+random.IntN(32), 15, random.IntN(20) == 0)
	if random.IntN(10) > 0 { // otherwise the block may have no end
		for s, length := range literals {
			if length > 0 && literals[256] == 0 {
				literals[256], literals[s] = length, 0
			}
		}
	}
	w.bits(final, 1)
	w.bits(2, 2)
	w.bits(uint32(len(literals)-257), 5)
	w.bits(uint32(len(distances)-1), 5)
	writeLengths(w, slices.Concat(literals, distances))
	writeSymbols(random, w, newCode(literals), newCode(distances))
}

// writeLengths writes the lengths of codes, packed.
func writeLengths(w *bitWriter, all []int) {
	c := newCode([]int{4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 6, 6})
	w.bits(15, 4)
	for _, s := range []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15} {
		w.bits(uint32(c.lengths[s]), 3)
	}
	for i := 0; i < len(all); {
		times := 1
		for i+times < len(all) && all[i+times] == all[i] {
			times++
		}
		switch {
		case i > 0 && all[i-1] == all[i] && times >= 3:
			times = min(times, 6)
			c.write(w, 16)
			w.bits(uint32(times-3), 2)
		case all[i] == 0 && times >= 11:
			times = min(times, 138)
			c.write(w, 18)
			w.bits(uint32(times-11), 7)
		case all[i] == 0 && times >= 3:
			times = min(times, 10)
			c.write(w, 17)
			w.bits(uint32(times-3), 3)
		default:
			times = 1
			c.write(w, all[i])
		}
		i += times
	}
}

// writeSymbols writes random symbols, and the end of the block.
func writeSymbols(random *rand.Rand, w *bitWriter, literals, distances code) {
	for range random.IntN(100) {
		s := literals.used(random)
		if s == 256 {
			continue
		}
		if literals.write(w, s); s < 256 {
			continue
		}
		if s > 264 && s < 285 {
			w.bits(random.Uint32(), (s-261)/4)
		}
		d := distances.used(random)
		if random.IntN(10) > 0 { // a short one leads more often to content that there is
			d = max(0, slices.IndexFunc(distances.lengths, func(n int) bool { return n > 0 }))
		}
		distances.write(w, d)
		w.bits(random.Uint32()&random.Uint32()&random.Uint32(), max(0, d/2-1))
	}
	literals.write(w, 256)
}

// Streams with blocks of all kinds, whose codes no writer would choose, are unpacked as compress/flate
// unpacks them, or not at all.
func TestInflateBlocks(t *testing.T) {
	t.Parallel()
	random, u := rand.New(rand.NewPCG(17, 18)), newUnpackers()
	unpacked := 0
	for range 3000 {
		var w bitWriter
		for left := random.IntN(3); left >= 0; left-- {
			if random.IntN(2) == 0 {
				n := random.IntN(400)
				w.bits(0, 3)
				w.n = 0
				w.out = append(w.out, byte(n), byte(n>>8), ^byte(n), ^byte(n>>8))
				for range n {
					w.out = append(w.out, byte(random.Uint32()))
				}
			}
			final := uint32(0)
			if left == 0 {
				final = 1
			}
			randomBlock(random, &w, final)
		}
		if random.IntN(20) == 0 {
			w.out = append(w.out, 0)
		}
		if u.compare(t, w.out) {
			unpacked++
		}
	}
	if unpacked < 1000 {
		t.Errorf("only %d streams can be unpacked", unpacked)
	}
}
