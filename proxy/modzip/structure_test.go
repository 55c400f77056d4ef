package modzip_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
)

// part is an entry of a zip, before it is written: what its headers say can differ.
type part struct {
	local, listed []byte // headers, with the name
	body          []byte // the content, as it is stored, and the descriptor
}

// partContents returns the contents of parts, each with its packed form.
func partContents(t testing.TB) (all [][2]string) {
	for _, content := range []string{
		"", "x", "PK\x07\x08", "PK\x07\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00PK\x03\x04", "package m\n\nfunc f() {}\n",
	} {
		all = append(all, [2]string{content, deflated(t, content)})
	}
	return all
}

// newPart returns an honest entry.
func newPart(random *rand.Rand, contents [][2]string) part {
	le := binary.LittleEndian
	names := []string{"m@v1/a", "m@v1/a", "m@v1/b.go", "m@v1/folder/", "m@v1/PK\x03\x04", ""}
	name, both := names[random.IntN(len(names))], contents[random.IntN(len(contents))]
	if name == "m@v1/folder/" {
		both = contents[0]
	}
	content, packed, method := both[0], both[0], uint16(0)
	if random.IntN(2) == 0 {
		packed, method = both[1], 8
	}
	sums := le.AppendUint32(nil, crc32.ChecksumIEEE([]byte(content)))
	sums = le.AppendUint32(le.AppendUint32(sums, uint32(len(packed))), uint32(len(content)))
	common := le.AppendUint16([]byte{20, 0, 0, 0}, method)
	common = append(common, 0, 0, 0, 0)
	here, p := sums, part{body: []byte(packed)}
	if random.IntN(3) > 0 {
		common[2] = 8
		here = make([]byte, 12)
		p.body = append(append(p.body, "PK\x07\x08"...), sums...)
	}
	lengths := []byte{byte(len(name)), 0, 0, 0}
	p.local = slices.Concat([]byte("PK\x03\x04"), common, here, lengths, []byte(name))
	p.listed = slices.Concat([]byte("PK\x01\x02\x14\x00"), common, sums, lengths, make([]byte, 14), []byte(name))
	return p
}

// change changes a field of a header, or its length.
func change(random *rand.Rand, header []byte) {
	values := []byte{0, 1, 8, 0x08, 0xff, byte(random.Uint32())}
	header[random.IntN(len(header))] = values[random.IntN(len(values))]
}

// structured returns a zip of a few entries, and changes some parts of its structure.
func structured(random *rand.Rand, contents [][2]string) []byte {
	le := binary.LittleEndian
	parts := make([]part, random.IntN(6))
	for i := range parts {
		parts[i] = newPart(random, contents)
	}
	var b bytes.Buffer
	var listed [][]byte
	for _, p := range parts {
		le.PutUint32(p.listed[42:], uint32(b.Len()))
		switch random.IntN(30) {
		case 0:
			change(random, p.local)
		case 1:
			change(random, p.listed)
		case 2:
			change(random, p.local)
			copy(p.listed[6:], p.local[4:30]) // both say the same
		case 3:
			p.body = p.body[:random.IntN(len(p.body)+1)]
		case 4:
			p.body = append(p.body, "PK\x07\x08 more"...)
		case 5:
			b.WriteString("PK\x03\x04 between")
		case 6:
			p.listed = append(listed, p.listed)[0] // that of another one
		case 7:
			le.PutUint32(p.listed[42:], random.Uint32()%100)
		case 8:
			listed = append(listed, p.listed)
		case 9:
			continue // in neither
		}
		b.Write(p.local)
		b.Write(p.body)
		if random.IntN(40) > 0 {
			listed = append(listed, p.listed)
		}
	}
	if random.IntN(20) == 0 {
		random.Shuffle(len(listed), func(i, j int) { listed[i], listed[j] = listed[j], listed[i] })
	}
	all := bytes.Join(listed, nil)
	start := b.Len()
	for range 1 + random.IntN(20)/19 { // rarely two directories
		b.Write(all)
		end := append([]byte("PK\x05\x06"), make([]byte, 18)...)
		le.PutUint16(end[8:], uint16(len(listed)))
		le.PutUint16(end[10:], uint16(len(listed)))
		le.PutUint32(end[12:], uint32(len(all)))
		le.PutUint32(end[16:], uint32(start))
		if random.IntN(30) == 0 {
			change(random, end)
		}
		b.Write(end)
	}
	switch random.IntN(30) {
	case 0:
		return append([]byte("prefix"), b.Bytes()...)
	case 1:
		return append(b.Bytes(), "behind"...)
	}
	return b.Bytes()
}

// Zips whose headers and directories contradict each other have the hash, or the error, of the complete
// zip while they arrive; x/mod has the same hash; and what counts is what a reader finds.
func TestAheadStructure(t *testing.T) {
	t.Parallel()
	random, contents := rand.New(rand.NewPCG(19, 20)), partContents(t)
	scratch := scratchIn(t)
	counted, hashed, shaped := 0, 0, 0
	for range 1500 {
		data := structured(random, contents)
		steps := []int{random.IntN(len(data)), random.IntN(len(data)), random.IntN(len(data))}
		slices.Sort(steps)
		if compareAhead(t, data, scratch, steps...) {
			counted++
		}
		got, err := hash(t, data)
		if err != nil {
			continue
		}
		hashed++
		if check(data) == nil {
			shaped++
		}
		if want, err := theirs(t, data); err != nil || got != want {
			t.Errorf("%x: %s, x/mod has %s, %v", data, got, want, err)
		}
	}
	if counted < 400 || hashed < counted || shaped == 0 {
		t.Errorf("%d zips can be hashed, %d have the shape of Go's, of %d what is found counts", hashed, shaped, counted)
	}
}
