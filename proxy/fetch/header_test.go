package fetch_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/assay-proxy/assay/proxy/fetch"
)

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		value string
		want  time.Duration
	}{
		{"", 0},
		{"0", 0},
		{"120", 2 * time.Minute},
		{" 7 ", 7 * time.Second},
		{"99999999", fetch.MaxRetryAfter},
		{"99999999999999999999999", fetch.MaxRetryAfter},
		{"-5", 0},
		{"1.5", 0},
		{"soon", 0},
		{now.Add(time.Minute).Format(http.TimeFormat), time.Minute},
		{"Friday, 02-Jan-26 03:05:05 GMT", time.Minute},
		{now.Add(-time.Minute).Format(http.TimeFormat), 0},
		{now.Add(1000 * time.Hour).Format(http.TimeFormat), fetch.MaxRetryAfter},
	} {
		if got := fetch.ParseRetryAfter(test.value, now); got != test.want {
			t.Errorf("ParseRetryAfter(%q) = %v, want %v", test.value, got, test.want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"120", "-1", "Fri, 02 Jan 2026 03:05:05 GMT", "9223372036854775807", "Sat, 01 Jan 9999 00:00:00 GMT", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if d := fetch.ParseRetryAfter(value, time.Now()); d < 0 || d > fetch.MaxRetryAfter {
			t.Errorf("ParseRetryAfter(%q) = %v", value, d)
		}
	})
}

func TestParseContentRange(t *testing.T) {
	for _, test := range []struct {
		value              string
		first, last, total int64
		ok                 bool
	}{
		{"bytes 0-0/1", 0, 0, 1, true},
		{"bytes 100-299/300", 100, 299, 300, true},
		{"BYTES 100-299/*", 100, 299, -1, true},
		{"", 0, 0, 0, false},
		{"bytes */300", 0, 0, 0, false},
		{"bytes 100-99/300", 0, 0, 0, false},
		{"bytes 100-300/300", 0, 0, 0, false},
		{"bytes -5/300", 0, 0, 0, false},
		{"bytes 5-/300", 0, 0, 0, false},
		{"bytes 5-9", 0, 0, 0, false},
		{"bytes 5-9/", 0, 0, 0, false},
		{"bytes=5-9/300", 0, 0, 0, false},
		{"lines 5-9/300", 0, 0, 0, false},
		{"bytes +5-9/300", 0, 0, 0, false},
		{"bytes 5-99999999999999999999/*", 0, 0, 0, false},
	} {
		first, last, total, err := fetch.ParseContentRange(test.value)
		if (err == nil) != test.ok || first != test.first || last != test.last || total != test.total {
			t.Errorf("ParseContentRange(%q) = %d-%d/%d, %v", test.value, first, last, total, err)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-99/1234", "bytes 0-99/*", "bytes */1234", "bytes 9223372036854775807-9223372036854775807/*", "bytes 1-0/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		first, last, total, err := fetch.ParseContentRange(value)
		if err != nil {
			return
		}
		if first < 0 || last < first || total >= 0 && last >= total {
			t.Fatalf("ParseContentRange(%q) = %d-%d/%d", value, first, last, total)
		}
		size := "*"
		if total >= 0 {
			size = fmt.Sprint(total)
		}
		a, b, c, err := fetch.ParseContentRange(fmt.Sprintf("bytes %d-%d/%s", first, last, size))
		if a != first || b != last || c != total || err != nil {
			t.Errorf("%q does not survive a round trip: %d-%d/%d, %v", value, a, b, c, err)
		}
	})
}

func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"not found", "a\nb\x00\xff", strings.Repeat("ä", 300), "https://u:p@h/x?y=z", "\u202e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := fetch.Printable(s)
		if len(got) > 200 || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("Printable(%q) = %q", s, got)
		}
	})
}
