package pinlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/sumdb"
)

// headStart begins every tree head (tlog.FormatTree).
const headStart = "go.sum database tree\n"

// maxHead bounds a signed head. Real ones have about 200 bytes, and a note has at most
// 100 signatures.
const maxHead = 64 << 10

// signedHead is a head that our key signed.
type signedHead struct {
	tree tlog.Tree
	note []byte
}

// openHead parses a head that verifier must have signed. It keeps no other signature. The error is
// sumdb.ErrInvalid.
func openHead(msg []byte, verifier note.Verifier) (signedHead, error) {
	n, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return signedHead{}, fmt.Errorf("%w: tree head: %v", sumdb.ErrInvalid, err)
	}
	tree, err := tlog.ParseTree([]byte(n.Text))
	if err != nil || n.Text != string(tlog.FormatTree(tree)) {
		return signedHead{}, fmt.Errorf("%w: the signed text is not a tree head", sumdb.ErrInvalid)
	}
	n.UnverifiedSigs = nil
	signed, err := note.Sign(n)
	if err != nil {
		return signedHead{}, fmt.Errorf("%w: tree head: %v", sumdb.ErrInvalid, err)
	}
	return signedHead{tree, signed}, nil
}

// signHead signs tree. The caller must have written its entries to disk and the tree to all guards.
func signHead(tree tlog.Tree, signer note.Signer) (signedHead, error) {
	signed, err := note.Sign(&note.Note{Text: string(tlog.FormatTree(tree))}, signer)
	return signedHead{tree, signed}, err
}

// splitHeads splits a file of heads. Each head is three lines, a blank line, and a line with a
// signature. damaged contains the bytes between two heads that are not a head. The bytes after the
// last head are ignored: they are the rest of a torn write. end is the end of the last head.
func splitHeads(data []byte) (heads, damaged [][]byte, end int) {
	for at := 0; at < len(data); {
		length := headLength(data[at:])
		if length > 0 {
			heads = append(heads, data[at:at+length])
			at += length
			end = at
			continue
		}
		next := bytes.Index(data[at+1:], []byte(headStart))
		if next < 0 {
			break
		}
		damaged = append(damaged, data[at:at+1+next])
		at += 1 + next
	}
	return heads, damaged, end
}

// headLength returns the length of the head at the start of data, 0 if there is none.
func headLength(data []byte) int {
	length, number := 0, 0
	for line := range bytes.Lines(data) {
		length += len(line)
		number++
		switch {
		case line[len(line)-1] != '\n',
			number == 1 && string(line) != headStart,
			number == 4 && string(line) != "\n",
			number == 5 && !bytes.HasPrefix(line, []byte("— ")):
			return 0
		case number == 5:
			return length
		}
	}
	return 0
}

// headTail is how many bytes at the end of the file of heads are read to find the newest one. A
// head has about 200 bytes.
const headTail = 64 << 10

// readHeads returns the heads in the file at path, unverified: all of them, or those in its last
// headTail bytes. size is the length of the file up to the end of the last whole head. A missing
// file has no heads.
func readHeads(path string, all bool) (heads, damaged [][]byte, size int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, 0, nil
	}
	if err != nil {
		return nil, nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, 0, err
	}
	from := int64(0)
	if !all {
		from = max(0, info.Size()-headTail)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return nil, nil, 0, err
	}
	if from > 0 {
		// The first bytes are most likely the second half of a head.
		first := max(0, bytes.Index(data, []byte("\n"+headStart))+1)
		data, from = data[first:], from+int64(first)
	}
	heads, damaged, end := splitHeads(data)
	return heads, damaged, from + int64(end), nil
}
