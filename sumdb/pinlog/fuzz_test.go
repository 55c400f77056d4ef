package pinlog_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-proxy/assay/sumdb"
	"github.com/assay-proxy/assay/sumdb/pinlog"
	"github.com/assay-proxy/assay/sumdb/sumdbtest"
)

// fuzzEntries returns one entry of each kind.
func fuzzEntries(t testing.TB) []pinlog.Entry {
	private, mirrored, bare := entry(0), entry(1), entry(2)
	private.Time = time.Date(2026, 11, 20, 10, 15, 0, 0, time.UTC)
	mirrored.ID, mirrored.Time, mirrored.Origin = 17, time.Date(2026, 11, 20, 10, 15, 0, 123456789, time.UTC), ""
	mirrored.Public = &pinlog.PublicProof{Name: "sum.golang.org", ID: 4711, Head: sumdbtest.NewLog(t, "sum.golang.org").Head(0)}
	bare.Origin, bare.Time, bare.ID = "", time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), 1<<40
	return []pinlog.Entry{private, mirrored, bare}
}

// An entry that Pin accepts is read from the disk unchanged, and its frame can be read.
func FuzzLogEntryRoundTrip(f *testing.F) {
	for _, e := range fuzzEntries(f) {
		proof := pinlog.PublicProof{}
		if e.Public != nil {
			proof = *e.Public
		}
		f.Add(e.ID, e.Module.Path, e.Module.Version, e.Zip, e.Mod, e.Time.Unix(), int64(e.Time.Nanosecond()), e.Origin,
			e.Public != nil, proof.Name, proof.ID, proof.Head)
	}
	good := fuzzEntries(f)[0]
	for _, origin := range []string{"https://user:secret@x.example/y", "two\nlines", " ", "\u0085", "\u2028", "\xff"} {
		f.Add(int64(0), good.Module.Path, good.Module.Version, good.Zip, good.Mod, int64(0), int64(0), origin, false, "", int64(0), []byte(nil))
	}
	for _, head := range []string{"", "x", "\n", "\n\n\n", "a\n\n\nb\n", "\t\n", "\r\n", "id 7\n"} {
		f.Add(int64(0), good.Module.Path, good.Module.Version, good.Zip, good.Mod, int64(0), int64(0), "", true, "sum.golang.org", int64(1), []byte(head))
	}
	// Longer than a frame may be, if Normal does not check it.
	f.Add(int64(0), good.Module.Path, good.Module.Version, good.Zip, good.Mod, int64(0), int64(0), "", true,
		strings.Repeat("long.example/", 300_000), int64(1), []byte("head\n"))
	f.Add(int64(0), good.Module.Path, good.Module.Version, good.Zip, good.Mod, int64(0), int64(0), "", true,
		"sum.golang.org", int64(1), bytes.Repeat([]byte("\n"), 1_000_000))
	f.Fuzz(func(t *testing.T, id int64, path, version, zip, mod string, seconds, nanoseconds int64, origin string,
		public bool, name string, publicID int64, head []byte) {
		e := pinlog.Entry{ID: id & (1<<40 - 1), Zip: zip, Mod: mod, Time: time.Unix(seconds, nanoseconds), Origin: origin}
		e.Module.Path, e.Module.Version = path, version
		if public {
			e.Public = &pinlog.PublicProof{Name: name, ID: publicID, Head: head}
		}
		e, err := e.Normal()
		if err != nil {
			if !errors.Is(err, sumdb.ErrInvalid) {
				t.Errorf("%v is no ErrInvalid", err)
			}
			return
		}
		text := e.Encode()
		got, err := pinlog.DecodeEntry(text)
		if diff := cmp.Diff(e, got); err != nil || diff != "" {
			t.Errorf("decode(encode(e)): %v\n%s", err, diff)
		}
		got, err = pinlog.DecodeFrame(pinlog.AppendFrame(nil, text))
		if diff := cmp.Diff(e, got); err != nil || diff != "" {
			t.Errorf("the frame of %d bytes: %v\n%s", len(text), err, diff)
		}
	})
}

// A text either is exactly the text that Pin would write for an entry, or ErrInvalid.
func FuzzLogEntry(f *testing.F) {
	for _, e := range fuzzEntries(f) {
		text := e.Encode()
		f.Add(text)
		f.Add(text[:len(text)-1])
		f.Add(append(text, '\n'))
		for old, new := range map[string]string{"id ": "id 0", "Z\n": "+01:00\n", "time": "id 0\ntime", "\n\n": "\norigin \n\n",
			".123456789Z": ".1234567890Z", "10:15:00": "10:15:00,5", "\tgo.sum": "\t\tgo.sum", " h1:": "  h1:", "public": "origin x\npublic"} {
			f.Add(bytes.Replace(text, []byte(old), []byte(new), 1))
		}
	}
	f.Add(bytes.Replace(fuzzEntries(f)[2].Encode(), []byte(".000000001Z"), []byte("Z"), 1)) // the zero time
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := pinlog.DecodeEntry(text)
		if err != nil {
			if !errors.Is(err, sumdb.ErrInvalid) {
				t.Errorf("%v is no ErrInvalid", err)
			}
			return
		}
		if again := e.Encode(); !bytes.Equal(again, text) {
			t.Errorf("%q is encoded as %q", text, again)
		}
		// Normal removes the user information of an origin.
		e.Origin = ""
		written, err := e.Normal() // Normal sets a missing time
		if err != nil || !bytes.Equal(written.Encode(), e.Encode()) {
			t.Errorf("Pin would write %q as %q, %v", e.Encode(), written.Encode(), err)
		}
	})
}

// A frame that can be read equals the frame that would be written; otherwise ErrInvalid.
func FuzzLogFrame(f *testing.F) {
	for _, e := range fuzzEntries(f) {
		frame := pinlog.AppendFrame(nil, e.Encode())
		f.Add(frame)
		f.Add(frame[:len(frame)-1])
		f.Add(frame[:7])
		f.Add(bytes.ToUpper(frame))
		f.Add(append([]byte("\n"), frame...))
	}
	f.Add([]byte("entry ffffffff 00000000\n"))
	f.Add([]byte("entry -0000001 00000000\n"))
	f.Add([]byte("entry 00000000 48674bc7\n"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		e, err := pinlog.DecodeFrame(frame)
		if err != nil {
			return
		}
		if again := pinlog.AppendFrame(nil, e.Encode()); !bytes.Equal(again, frame[:min(len(again), len(frame))]) {
			t.Errorf("%q is written as %q", frame, again)
		}
	})
}

// Each byte of a file of heads is in a head, in a damaged part, or in the tail. Written heads are
// found again, whatever bytes precede them.
func FuzzLogHeads(f *testing.F) {
	twin := sumdbtest.NewLog(f, "twin.example")
	twin.Fill(3)
	head := twin.Head(3)
	f.Add([]byte(nil))
	f.Add(head)
	f.Add(head[:len(head)-1])
	f.Add(append(head[:40:40], head...))
	f.Add(append(append([]byte("garbage\n"), head...), "more\n"...))
	f.Add([]byte("\n\n\n\n\n"))
	f.Add([]byte("go.sum database tree\ngo.sum database tree\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		heads, damaged, end := pinlog.SplitHeads(data)
		if total := len(bytes.Join(heads, nil)) + len(bytes.Join(damaged, nil)); total > len(data) || end > len(data) ||
			len(damaged) == 0 && total != end {
			t.Errorf("%q has heads %q, damaged %q, end %d", data, heads, damaged, end)
		}
		for _, part := range heads {
			if !bytes.HasPrefix(part, []byte("go.sum database tree\n")) || bytes.Count(part, []byte("\n")) != 5 {
				t.Errorf("%q is no head", part)
			}
		}
		whole := append(append(bytes.Clone(data), '\n'), head...)
		heads, _, end = pinlog.SplitHeads(whole)
		if len(heads) == 0 || !bytes.Equal(heads[len(heads)-1], head) || end != len(whole) {
			t.Errorf("%q: the head at its end is not found: %q", whole, heads)
		}
	})
}

// A guard has exactly one valid text.
func FuzzLogGuard(f *testing.F) {
	guard := pinlog.EncodeGuard("sum.corp.example+0123abcd+AAAA", 17, [32]byte{1}, 4711, 1_763_000_000_000_000_000)
	f.Add(guard)
	f.Add(guard[:len(guard)-1])
	f.Add(append(guard, '\n'))
	f.Add(pinlog.EncodeMark("sum.corp.example+0123abcd+AAAA", 17, 4711, 1_763_000_000_000_000_000, 0, -1))
	f.Add(pinlog.EncodeGuard("", 0, [32]byte{}, 0, 0))
	f.Add(pinlog.EncodeGuard("two words", -1, [32]byte{}, 1<<63, -1))
	f.Add(bytes.ReplaceAll(guard, []byte("\n"), []byte("\r\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		again, err := pinlog.RecodeGuard(text)
		if err == nil && !bytes.Equal(again, text) {
			t.Errorf("%q is encoded as %q", text, again)
		}
		if err != nil && !errors.Is(err, sumdb.ErrInvalid) {
			t.Errorf("%v is no ErrInvalid", err)
		}
	})
}
