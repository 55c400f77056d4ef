package pinlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"

	"github.com/assay-proxy/assay/sumdb"
)

// An entry in the file of entries is a frame: a line with the length of the text and a CRC32C, both
// as 8 hex digits, then the text. The checksum covers the digits of the length and the text. It
// detects torn writes and bad disks; the tree detects deliberate changes.
const (
	frameMark   = "entry "
	frameHeader = len(frameMark + "00000000 00000000\n")

	// maxEntry bounds the text of an entry: a signed head of maxHead, whose
	// lines are indented, and the rest.
	maxEntry = 3 * maxHead
)

// appendFrame appends the frame of text to b.
func appendFrame(b, text []byte) []byte {
	length := fmt.Sprintf("%08x", len(text))
	b = fmt.Appendf(b, "%s%s %08x\n", frameMark, length, frameSum(length, text))
	return append(b, text...)
}

func frameSum(length string, text []byte) uint32 {
	castagnoli := crc32.MakeTable(crc32.Castagnoli) // the library computes it once
	return crc32.Update(crc32.Checksum([]byte(length), castagnoli), castagnoli, text)
}

// readFrame reads the next frame of r and returns its text. The error is io.EOF at the end,
// sumdb.ErrInvalid if there is no whole frame, or that of r.
func readFrame(r *bufio.Reader) ([]byte, error) {
	header := make([]byte, frameHeader)
	if _, err := io.ReadFull(r, header); err == io.EOF {
		return nil, io.EOF
	} else if err != nil {
		return nil, tornFrame(err)
	}
	length, sum, ok := parseFrameHeader(header)
	if !ok {
		return nil, fmt.Errorf("%w: no header of an entry", sumdb.ErrInvalid)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, tornFrame(err)
	}
	if frameSum(fmt.Sprintf("%08x", length), text) != sum {
		return nil, fmt.Errorf("%w: wrong checksum of an entry", sumdb.ErrInvalid)
	}
	return text, nil
}

func tornFrame(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the end of an entry is missing", sumdb.ErrInvalid)
	}
	return err
}

func parseFrameHeader(header []byte) (length int, sum uint32, ok bool) {
	words, ok := bytes.CutPrefix(header, []byte(frameMark))
	if !ok {
		return 0, 0, false
	}
	n, err1 := strconv.ParseUint(string(words[:8]), 16, 32)
	s, err2 := strconv.ParseUint(string(words[9:17]), 16, 32)
	canonical := fmt.Sprintf("%08x %08x\n", n, s)
	return int(n), uint32(s), err1 == nil && err2 == nil && n <= maxEntry && string(words) == canonical
}

// decodeFrame parses a frame that was read in one piece.
func decodeFrame(frame []byte) (Entry, error) {
	r := bufio.NewReader(bytes.NewReader(frame))
	text, err := readFrame(r)
	if err != nil {
		return Entry{}, err
	}
	return decodeEntry(text)
}
