package pinlog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb"
)

// batch is an object of a log in a bucket: some entries, the tree before and after them, and what they
// follow. It is signed with the key of the log, with a text that no tree head has: a batch that loses
// against another one with the same number is not a head.
type batch struct {
	number   int64
	time     time.Time
	writer   string            // random, so that two batches with the same entries differ
	previous [sha256.Size]byte // of the batch before, zero in number 0
	before   tlog.Tree
	head     string // the line with the signature of the head of before; "" in number 0
	after    tlog.Tree
	closed   bool   // the log goes on elsewhere; it has no entries
	target   string // with closed: the word of the directory where it goes on
	frames   []byte // of the entries
}

const (
	batchStart = "assay log batch\n"

	// maxBatch bounds a batch. A larger one has a single entry of maxEntry bytes.
	maxBatch = maxEntry + 64<<10

	// maxBatchHeader bounds the signed text of a batch, which has about 700 bytes.
	maxBatchHeader = 32 << 10

	// batchRoom is how many bytes of entries a batch has at most, if it has more than one: together with
	// the rest it is a small object of the store.
	batchRoom = storage.MaxSmall - 4<<10
)

// text returns the text of b that is signed. key is the verifier key of the log.
func (b batch) text(key string) string {
	var t strings.Builder
	fmt.Fprintf(&t, "%skey %s\nnumber %d\ntime %s\nwriter %s\nprevious %x\n", batchStart, key, b.number, b.time.Format(time.RFC3339), b.writer, b.previous)
	fmt.Fprintf(&t, "before %d %s\n", b.before.N, b.before.Hash)
	if b.head != "" {
		fmt.Fprintf(&t, "head %s\n", b.head)
	}
	fmt.Fprintf(&t, "after %d %s\n", b.after.N, b.after.Hash)
	if b.closed {
		fmt.Fprintf(&t, "closed %s\n", b.target)
	}
	fmt.Fprintf(&t, "entries %d %x\n", len(b.frames), sha256.Sum256(b.frames))
	return t.String()
}

// encode returns the object of b.
func (b batch) encode(key keyPair) ([]byte, error) {
	signed, err := note.Sign(&note.Note{Text: b.text(key.public)}, key.signer)
	if err != nil {
		return nil, err
	}
	return append(signed, b.frames...), nil
}

// sealed is a batch whose signature is not verified yet.
type sealed struct {
	batch
	key    string // that the batch names
	header []byte // the signed text, with its signature
	object []byte // all of it
	hash   [sha256.Size]byte
}

// splitBatches splits objects of batches that stand one after another. The error is sumdb.ErrInvalid.
func splitBatches(data []byte) (all []sealed, err error) {
	for len(data) > 0 {
		b, size, err := decodeBatch(data)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
		data = data[size:]
	}
	return all, nil
}

// decodeBatch is the inverse of encode for the batch at the start of data, which has size bytes. The
// frames are part of data. It does not verify the signature. The error is sumdb.ErrInvalid.
func decodeBatch(data []byte) (b sealed, size int, err error) {
	invalid := fmt.Errorf("%w: not a batch of a log", sumdb.ErrInvalid)
	var text string
	if b.header, text = cutHeader(data); b.header == nil {
		return b, 0, invalid
	}
	length, ok := b.setFields(text)
	if !ok || length < 0 || length > int64(len(data)-len(b.header)) {
		return b, 0, invalid
	}
	size = len(b.header) + int(length)
	b.frames = data[len(b.header):size:size]
	if b.text(b.key) != text {
		return b, 0, invalid
	}
	b.object = data[:size:size]
	b.hash = sha256.Sum256(b.object)
	return b, size, nil
}

// cutHeader returns the signed text at the start of data, with its signature and without, nil if there is none.
func cutHeader(data []byte) (header []byte, text string) {
	start := data[:min(len(data), maxBatchHeader)]
	blank := bytes.Index(start, []byte("\n\n— "))
	if blank < 0 {
		return nil, ""
	}
	line := bytes.IndexByte(start[blank+2:], '\n')
	if line < 0 {
		return nil, ""
	}
	return data[:blank+2+line+1], string(data[:blank+1])
}

// signedBy returns the key that an object names as that of its log, if it is another one than that of verifier, and
// whether verifier knows its signature. The object may be a batch in a format of a newer version of this program.
func signedBy(object []byte, verifier note.Verifier) (other string, known bool) {
	header, text := cutHeader(object)
	if _, err := note.Open(header, note.VerifierList(verifier)); err == nil {
		return "", true
	}
	for line := range strings.Lines(text) {
		key, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "key ")
		if named, err := sumdb.NewVerifier(key); ok && err == nil && (named.Name() != verifier.Name() || named.KeyHash() != verifier.KeyHash()) {
			return key, false
		}
	}
	return "", false
}

// setFields sets what is in the text of a batch, and returns how many bytes of entries follow. The caller
// checks that each field is there once, in order, and in its only form.
func (b *sealed) setFields(text string) (length int64, ok bool) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		first, second, _ := strings.Cut(value, " ")
		var err error
		switch name {
		case "key":
			b.key = value
		case "number":
			b.number, err = strconv.ParseInt(value, 10, 64)
		case "time":
			b.time, err = time.Parse(time.RFC3339, value)
		case "writer":
			b.writer = value
		case "previous":
			var sum []byte
			sum, err = hex.DecodeString(value)
			copy(b.previous[:], sum)
		case "before":
			b.before, err = parseTree(first, second)
		case "head":
			b.head = value
		case "after":
			b.after, err = parseTree(first, second)
		case "closed":
			b.closed, b.target = true, value
		case "entries":
			length, err = strconv.ParseInt(first, 10, 64)
		}
		if err != nil {
			return 0, false
		}
	}
	return length, true
}

func parseTree(size, root string) (tree tlog.Tree, err error) {
	if tree.N, err = strconv.ParseInt(size, 10, 64); err == nil {
		tree.Hash, err = tlog.ParseHash(root)
	}
	return tree, err
}

// verify returns an error unless the key of the log signed b. The error is sumdb.ErrInvalid.
func (b sealed) verify(verifier note.Verifier) error {
	if _, err := note.Open(b.header, note.VerifierList(verifier)); err != nil {
		return fmt.Errorf("%w: batch %d: %v", sumdb.ErrInvalid, b.number, err)
	}
	return nil
}

// headBefore returns the signed head of the tree before b, nil if it has none. The error is
// sumdb.ErrInvalid.
func (b batch) headBefore(verifier note.Verifier) (*signedHead, error) {
	if b.head == "" {
		return nil, nil
	}
	head, err := openHead(fmt.Appendf(nil, "%s\n%s\n", tlog.FormatTree(b.before), b.head), verifier)
	if err != nil {
		return nil, fmt.Errorf("batch %d: %w", b.number, err)
	}
	return &head, nil
}

// signatureLine returns the last line of a signed head.
func signatureLine(head *signedHead) string {
	lines := slices.Collect(strings.Lines(string(head.note)))
	return strings.TrimSuffix(lines[len(lines)-1], "\n")
}

// entries returns the entries of b.
func (b batch) entries() (all []Entry, err error) {
	rest := bytes.NewReader(b.frames)
	r := bufio.NewReader(rest)
	for id := b.before.N; id < b.after.N; id++ {
		text, err := readFrame(r)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", id, tornFrame(err))
		}
		e, err := decodeEntry(text)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", id, err)
		}
		if e.ID != id {
			return nil, fmt.Errorf("%w: entry %d has the number %d", sumdb.ErrInvalid, id, e.ID)
		}
		all = append(all, e)
	}
	if r.Buffered()+rest.Len() > 0 {
		return nil, fmt.Errorf("%w: there are more entries than the tree has", sumdb.ErrInvalid)
	}
	return all, nil
}
