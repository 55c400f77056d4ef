package modzip

import (
	"encoding/binary"
	"math/bits"
)

// inflater unpacks deflated contents (RFC 1951) that are in memory as a whole, as nearly all
// files of a module are: for such short contents compress/flate spends most of its time on
// its state, its tables, and on a call for each byte. docs/design/dependencies.md says why it is no
// library.
//
// It does not say what is wrong with a content. It unpacks nothing that compress/flate
// refuses: its callers give that package whatever it does not unpack.
type inflater struct {
	symbols   [288]uint32 // entries of literals without the length of their codes, in the order of RFC 1951
	distances [32]uint32  // the same of distances
	literal   [tableSize]uint32
	distance  [tableSize]uint32
	sorted    [288]uint16 // symbols of the code that is being built, by code
	lengths   [288 + 32]uint8
}

// An entry of a table has the length of a code in its lowest four bits, 0 if there is no such
// code, then its kind, from bit 8 on the number of extra bits, and from bit 16 on its value.
const (
	isLiteral = 1 << (4 + iota)
	isLink    // the value is where a second table begins, which the next bits, as many as the length says, are the index of
	isEnd
)

// Bits of a code that are the index of its first table.
const (
	literalBits  = 9
	distanceBits = 7
)

const (
	maxCode   = 15      // bits of a code
	tableSize = 1 << 10 // of a code, with the second tables
)

func newInflater() *inflater {
	f := new(inflater)
	for i := range 256 {
		f.symbols[i] = uint32(i)<<16 | isLiteral
	}
	f.symbols[256] = isEnd
	base := uint32(3)
	for i := range 28 {
		extra := uint32(max(0, i/4-1))
		f.symbols[257+i] = base<<16 | extra<<8
		base += 1 << extra
	}
	f.symbols[285] = 258 << 16
	base = 1
	for i := range 30 {
		extra := uint32(max(0, i/2-1))
		f.distances[i] = base<<16 | extra<<8
		base += 1 << extra
	}
	return f
}

// inflate unpacks src into dst, and reports whether src is one stream that fills dst and ends
// with the last byte of src.
func (f *inflater) inflate(dst, src []byte) bool {
	in := bitReader{src: src}
	n := 0
	for final := false; !final; {
		in.fill()
		if in.n < 3 {
			return false
		}
		final = in.take(1) == 1
		var ok bool
		switch in.take(2) {
		case 0:
			n, ok = in.stored(dst, n)
		case 1:
			ok = f.fixed()
			if ok {
				n, ok = f.block(dst, n, &in)
			}
		case 2:
			ok = f.dynamic(&in)
			if ok {
				n, ok = f.block(dst, n, &in)
			}
		}
		if !ok {
			return false
		}
	}
	return n == len(dst) && in.rest() == 0
}

// block unpacks the symbols of a block behind dst[:n].
func (f *inflater) block(dst []byte, n int, from *bitReader) (int, bool) {
	in := *from // in registers
	for {
		in.fill() // at least 48 bits if the content has them: two codes and their extra bits
		e := f.literal[in.bits&(1<<literalBits-1)]
		if e&isLink != 0 {
			e = f.literal[(e>>16+uint32(in.bits>>literalBits)&(1<<(e&maxCode)-1))&(tableSize-1)]
		}
		if !in.skip(e & maxCode) {
			return 0, false
		}
		if e&isLiteral != 0 {
			if n >= len(dst) {
				return 0, false
			}
			dst[n] = byte(e >> 16)
			n++
			continue
		}
		if e&isEnd != 0 {
			*from = in
			return n, true
		}
		length, ok := in.value(e)
		if !ok {
			return 0, false
		}
		if e = f.distance[in.bits&(1<<distanceBits-1)]; e&isLink != 0 {
			e = f.distance[(e>>16+uint32(in.bits>>distanceBits)&(1<<(e&maxCode)-1))&(tableSize-1)]
		}
		if !in.skip(e & maxCode) {
			return 0, false
		}
		distance, ok := in.value(e)
		if !ok || distance > n || length > len(dst)-n {
			return 0, false
		}
		repeat(dst[n-distance:n+length], distance)
		n += length
	}
}

// repeat fills b with its first n bytes, again and again.
func repeat(b []byte, n int) {
	for n < len(b) {
		n += copy(b[n:], b[:n])
	}
}

// fixed builds the tables of a block without codes of its own.
func (f *inflater) fixed() bool {
	for i := range 288 {
		switch {
		case i < 144, i >= 280:
			f.lengths[i] = 8
		case i < 256:
			f.lengths[i] = 9
		default:
			f.lengths[i] = 7
		}
	}
	for i := range 32 {
		f.lengths[288+i] = 5
	}
	return f.build(f.literal[:], literalBits, f.lengths[:288], f.symbols[:]) && f.build(f.distance[:], distanceBits, f.lengths[288:], f.distances[:])
}

// dynamic reads the codes of a block and builds their tables.
func (f *inflater) dynamic(in *bitReader) bool {
	in.fill()
	if in.n < 14 {
		return false
	}
	literals, distances, n := int(in.take(5))+257, int(in.take(5))+1, int(in.take(4))+4
	if literals > 286 || distances > 30 {
		return false
	}
	order := [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	var codes [19]uint8
	for _, symbol := range order[:n] {
		in.fill()
		if in.n < 3 {
			return false
		}
		codes[symbol] = uint8(in.take(3))
	}
	var values [19]uint32
	for i := range values {
		values[i] = uint32(i)<<16 | isLiteral
	}
	const most = 7 // bits of such a code
	if !f.build(f.distance[:], most, codes[:], values[:]) || !f.readLengths(in, literals+distances) {
		return false
	}
	return f.build(f.literal[:], literalBits, f.lengths[:literals], f.symbols[:]) &&
		f.build(f.distance[:], distanceBits, f.lengths[literals:literals+distances], f.distances[:])
}

// readLengths reads the lengths of n codes by the code in f.distance.
func (f *inflater) readLengths(in *bitReader, n int) bool {
	for i := 0; i < n; {
		in.fill()
		e := f.distance[in.bits&(1<<distanceBits-1)]
		if !in.skip(e & maxCode) {
			return false
		}
		length, extra, least := uint8(0), uint(0), 0
		switch symbol := e >> 16; symbol {
		case 16:
			if i == 0 {
				return false
			}
			length, extra, least = f.lengths[i-1], 2, 3
		case 17:
			extra, least = 3, 3
		case 18:
			extra, least = 7, 11
		default:
			f.lengths[i] = uint8(symbol)
			i++
			continue
		}
		if in.n < extra {
			return false
		}
		times := least + int(in.take(extra))
		if times > n-i {
			return false
		}
		for range times {
			f.lengths[i] = length
			i++
		}
	}
	return true
}

// build makes the table of a code from the lengths of its symbols. A code has no unused
// bits, or one symbol of one bit, or no symbol.
func (f *inflater) build(table []uint32, root int, lengths []uint8, symbols []uint32) bool {
	var counts, next [maxCode + 1]int
	for _, n := range lengths {
		counts[n]++
	}
	used := len(lengths) - counts[0]
	counts[0] = 0
	code, at := 0, 0
	for n := 1; n <= maxCode; n++ {
		code = code<<1 + counts[n]
		next[n] = at
		at += counts[n]
	}
	if code != 1<<maxCode {
		if used > 1 || used == 1 && counts[1] != 1 {
			return false
		}
		clear(table[:1<<root])
	}
	for symbol, n := range lengths {
		if n > 0 {
			f.sorted[next[n]] = uint16(symbol)
			next[n]++
		}
	}
	return f.enter(table, root, lengths, symbols, used)
}

// enter puts the symbols in f.sorted into a table, the longest codes first, so that the first
// code of each second table says how large that is.
func (f *inflater) enter(table []uint32, root int, lengths []uint8, symbols []uint32, used int) bool {
	free, prefix := 1<<root, -1
	second, size := 0, 0 // the second table for prefix
	code, before := 0, 0
	for i := used - 1; i >= 0; i-- {
		symbol := f.sorted[i]
		n := int(lengths[symbol])
		switch {
		case before > 0:
			code = code>>(before-n) - 1
		case used > 1:
			code = 1<<n - 1
		}
		before = n
		entry := symbols[symbol]
		if entry != 0 {
			entry |= uint32(n)
		}
		index := int(bits.Reverse16(uint16(code)) >> (16 - n)) // the first bit of a code is the lowest
		if n <= root {
			for ; index < 1<<root; index += 1 << n {
				table[index] = entry
			}
			continue
		}
		if first := index & (1<<root - 1); first != prefix {
			prefix, second, size = first, free, 1<<(n-root)
			if free += size; free > len(table) {
				return false
			}
			table[first] = uint32(second)<<16 | isLink | uint32(n-root)
		}
		for index >>= root; index < size; index += 1 << (n - root) {
			table[second+index] = entry
		}
	}
	return true
}

// bitReader reads bits, the lowest of each byte first.
type bitReader struct {
	src  []byte
	at   int    // of the next byte that is not in bits
	bits uint64 // above the lowest n are zeros, or what the next bytes have there
	n    uint
}

// fill makes n at least 48, unless the content ends before.
func (r *bitReader) fill() {
	if r.n >= 48 {
		return
	}
	if len(r.src)-r.at >= 8 {
		r.bits |= binary.LittleEndian.Uint64(r.src[r.at:]) << r.n
		r.at += int(63-r.n) >> 3
		r.n |= 56
		return
	}
	for ; r.n <= 56 && r.at < len(r.src); r.n += 8 {
		r.bits |= uint64(r.src[r.at]) << r.n
		r.at++
	}
}

// take returns the next n bits, which there are.
func (r *bitReader) take(n uint) uint32 {
	v := uint32(r.bits & (1<<n - 1))
	r.bits >>= n
	r.n -= n
	return v
}

// skip skips a code of so many bits, and reports whether there is one.
func (r *bitReader) skip(length uint32) bool {
	r.bits >>= length
	ok := length > 0 && uint(length) <= r.n
	r.n -= uint(length)
	return ok
}

// value returns the value of an entry with its extra bits.
func (r *bitReader) value(e uint32) (int, bool) {
	extra := uint(e >> 8 & 0xff)
	if extra > r.n {
		return 0, false
	}
	return int(e>>16 + r.take(extra)), true
}

// stored copies a block that is not compressed behind dst[:n].
func (r *bitReader) stored(dst []byte, n int) (int, bool) {
	r.take(r.n % 8)
	if r.fill(); r.n < 32 {
		return 0, false
	}
	length, check := r.take(16), r.take(16)
	r.at -= int(r.n / 8)
	r.bits, r.n = 0, 0
	if check != ^length&0xffff || int(length) > len(dst)-n || int(length) > len(r.src)-r.at {
		return 0, false
	}
	copy(dst[n:], r.src[r.at:r.at+int(length)])
	r.at += int(length)
	return n + int(length), true
}

// rest returns the number of bytes that were not used.
func (r *bitReader) rest() int { return len(r.src) - r.at + int(r.n/8) }
