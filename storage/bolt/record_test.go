package bolt_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// A record that is decoded without an error was encoded by this package.
func FuzzRecord(f *testing.F) {
	const key = "a.example/@v/v1.0.0.mod"
	inline := bolt.EncodeInline(storage.Info{Key: key, Size: 3, Hash: "h1:abc", Proof: "sum.example", Time: time.Unix(1, 0)}, []byte("abc"))
	blob := bolt.EncodeBlob(storage.Info{Key: key, Size: 600_000, Time: time.Unix(2, 0)}, 7, []int64{100, 262244, 999})
	f.Add(key, inline)
	f.Add(key, blob)
	f.Add(key, inline[:9])
	f.Add(key, []byte{})
	f.Add("other", inline)
	f.Add(key, append(bytes.Clone(inline), 0))
	f.Add(key, bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		info, content, err := bolt.DecodeRecord(name, b)
		if err != nil {
			if !errors.Is(err, storage.ErrDamaged) {
				t.Errorf("got %v, want ErrDamaged", err)
			}
			return
		}
		// Because of the checksum, only encoded bytes get here, with overwhelming probability.
		if info.Key != name || info.Size < 0 {
			t.Errorf("%+v", info)
		}
		if content != nil && !bytes.Equal(bolt.EncodeInline(info, content), b) {
			t.Errorf("%x decodes and encodes to something else", b)
		}
	})
}

func TestRecordBytes(t *testing.T) {
	t.Parallel()
	const key = "a.example/@v/v1.0.0.mod"
	for name, whole := range map[string][]byte{
		"inline": bolt.EncodeInline(storage.Info{Key: key, Size: 30, Hash: "h1:abc", Proof: "sum.example", Time: time.Unix(1, 0)}, bytes.Repeat([]byte("abc"), 10)),
		"blob":   bolt.EncodeBlob(storage.Info{Key: key, Size: 600_000, Hash: "h1:abc", Time: time.Unix(2, 0)}, 7, []int64{100, 262244, 999}),
	} {
		if _, _, err := bolt.DecodeRecord(key, whole); err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			for bit := range 8 {
				changed := bytes.Clone(whole)
				changed[i] ^= 1 << bit
				if _, _, err := bolt.DecodeRecord(key, changed); !errors.Is(err, storage.ErrDamaged) {
					t.Errorf("%s: bit %d of byte %d: %v, want ErrDamaged", name, bit, i, err)
				}
			}
			if _, _, err := bolt.DecodeRecord(key, whole[:i]); !errors.Is(err, storage.ErrDamaged) {
				t.Errorf("%s: the first %d bytes: %v, want ErrDamaged", name, i, err)
			}
		}
		if _, _, err := bolt.DecodeRecord("another/key", whole); !errors.Is(err, storage.ErrDamaged) {
			t.Errorf("%s: of another key: %v, want ErrDamaged", name, err)
		}
	}
}
