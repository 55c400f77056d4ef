package s3

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/assay-proxy/assay/storage"
)

const (
	// chunkSize is how many bytes of a content have one checksum. A content of at most one chunk is
	// in its record.
	chunkSize = 256 << 10

	// maxHeader is the maximum size of the part of a record before the content: checksums of 16 GiB,
	// a key, a hash and a proof.
	maxHeader = 1 << 20

	// firstRead is how much of a record is read for its header. Those of contents up to about 1 GiB
	// fit.
	firstRead = 32 << 10
)

// Where things are below the prefix of a store.
const (
	objects  = "o/"
	states   = "s/"
	contents = "c/"
)

// schema is the version of the format. A reader refuses a higher one.
const schema = 1

// record describes an object or a state. In the bucket it is a line with the name of the format, the
// schema and the CRC-32C of the second line; a line of JSON; and the content, if it is small.
type record struct {
	Key   string    `json:"key"` // in the bucket, below the prefix of the store
	Size  int64     `json:"size"`
	Hash  string    `json:"hash,omitempty"`
	Proof string    `json:"proof,omitempty"`
	Time  time.Time `json:"time"`

	// ID is random: no two writes are equal, and a writer that does not know whether its request
	// was done can recognise its own.
	ID string `json:"id"`

	// Past are the IDs of the last values of a state, the newest first: a writer whose answer got lost
	// finds its own there when others have changed the state since.
	Past []string `json:"past,omitempty"`

	SHA256  []byte `json:"sha256,omitempty"`  // of the content of an object
	Content string `json:"content,omitempty"` // its key below the prefix; empty if it follows here
	Sums    []byte `json:"sums"`              // the CRC-32C of each chunk, 4 bytes each, little endian
}

// newRecord returns the record of a content, without its SHA-256.
func newRecord(info storage.Info, sums []byte) record {
	if info.Time.IsZero() {
		info.Time = time.Now()
	}
	return record{Key: objects + info.Key, Size: info.Size, Hash: info.Hash, Proof: info.Proof, Time: info.Time.UTC().Truncate(time.Second),
		ID: newID(), Sums: sums}
}

// maxPast is how many values of a state its record remembers.
const maxPast = 128

// after returns the IDs that the record after r remembers.
func (r record) after() []string {
	past := append([]string{r.ID}, r.Past...)
	return past[:min(len(past), maxPast)]
}

// from reports whether the write with this ID made r, or a value before it that r remembers.
func (r record) from(id string) bool { return r.ID == id || slices.Contains(r.Past, id) }

func (r record) info() storage.Info {
	return storage.Info{Key: r.Key[len(objects):], Size: r.Size, Hash: r.Hash, Proof: r.Proof, Time: r.Time}
}

// newID returns a random text that no other call returns.
func newID() string { return rand.Text() }

// castagnoli is the polynomial for which amd64 and arm64 have an instruction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sums returns the checksums of the chunks of a content that is in memory.
func sums(content []byte) (all []byte) {
	for len(content) > 0 {
		n := min(len(content), chunkSize)
		all = appendSum(all, content[:n])
		content = content[n:]
	}
	return all
}

func appendSum(all, chunk []byte) []byte {
	return binary.LittleEndian.AppendUint32(all, crc32.Checksum(chunk, castagnoli))
}

// checkChunks checks whole chunks of the content, from number first on; the last one may be short.
func (r record) checkChunks(content []byte, first int64) error {
	for n := first; len(content) > 0; n++ {
		chunk := content[:min(len(content), chunkSize)]
		content = content[len(chunk):]
		if int64(len(r.Sums)) < (n+1)*4 || binary.LittleEndian.Uint32(r.Sums[n*4:]) != crc32.Checksum(chunk, castagnoli) {
			return fmt.Errorf("content at byte %d: %w", n*chunkSize, storage.ErrDamaged)
		}
	}
	return nil
}

// encode returns the record with its content, which is empty if it is elsewhere.
func (r record) encode(content []byte) ([]byte, error) {
	var line bytes.Buffer
	enc := json.NewEncoder(&line) // ends with a newline
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	if line.Len() > maxHeader/2 {
		return nil, fmt.Errorf("a content of %d bytes is too large for a bucket", r.Size)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "assay %d %08x\n", schema, crc32.Checksum(line.Bytes(), castagnoli))
	b.Write(line.Bytes())
	b.Write(content)
	return b.Bytes(), nil
}

// errCut means that data ends before the content of a record begins.
var errCut = fmt.Errorf("the record is cut off: %w", storage.ErrDamaged)

// decode returns the record that data begins with, and what follows it. The error is errCut,
// storage.ErrDamaged or storage.ErrNewer.
func decode(key string, data []byte) (r record, content []byte, err error) {
	damaged := func(what string) (record, []byte, error) {
		return record{}, nil, fmt.Errorf("%s of the record: %w", what, storage.ErrDamaged)
	}
	first, rest, _ := bytes.Cut(data, []byte("\n"))
	end := bytes.IndexByte(rest, '\n') + 1
	if end == 0 {
		return record{}, nil, errCut
	}
	var version int
	var sum uint32
	if n, err := fmt.Sscanf(string(first), "assay %d %08x", &version, &sum); err != nil || n != 2 {
		return damaged("first line")
	}
	if version > schema {
		return record{}, nil, storage.ErrNewer
	}
	line, content := rest[:end], rest[end:]
	if crc32.Checksum(line, castagnoli) != sum {
		return damaged("checksum")
	}
	if err := json.Unmarshal(line, &r); err != nil || r.Size < 0 {
		return damaged("JSON")
	}
	if r.Key != key {
		return damaged("key")
	}
	if chunks := (r.Size + chunkSize - 1) / chunkSize; int64(len(r.Sums)) != chunks*4 {
		return damaged("number of checksums")
	}
	return r, content, nil
}

// open returns the content that follows a record in the bucket, after a check.
func (r record) open(content []byte) ([]byte, error) {
	if int64(len(content)) != r.Size {
		return nil, fmt.Errorf("%d bytes instead of %d: %w", len(content), r.Size, storage.ErrDamaged)
	}
	return content, r.checkChunks(content, 0)
}
