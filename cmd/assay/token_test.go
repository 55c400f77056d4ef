package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/access"
)

func TestParseExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 23, 30, 0, 0, time.FixedZone("", -3600))
	for text, want := range map[string]string{
		"never": "0001-01-01T00:00:00Z", "1d": "2026-11-22T00:30:00Z", "90d": "2027-02-19T00:30:00Z", "36500d": "2126-10-28T00:30:00Z",
		"2027-01-31": "2027-02-01T00:00:00Z", "2028-02-28": "2028-02-29T00:00:00Z",
	} {
		got, err := parseExpiry(text, now)
		if err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v; want %s", text, got.UTC(), err, want)
		}
	}
	for _, text := range []string{"", "d", "90", "-1d", "1.5d", "36501d", "12h", "2027-02-30", "31.1.2027", "Never"} {
		if got, err := parseExpiry(text, now); err == nil || !strings.Contains(err.Error(), "--expires "+text) {
			t.Errorf("%q: %v, %v; want an error", text, got, err)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// The secret is in one place only. If it cannot be written there, the command reports that.
func TestCreateTokenPrints(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	var out, errOut bytes.Buffer
	if err := createToken(file, access.Token{Name: "ci", Groups: []string{"build"}}, &out, &errOut); err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimSuffix(out.String(), "\n")
	if !strings.HasPrefix(secret, "assay_") || strings.Contains(secret, "\n") || strings.Contains(errOut.String(), secret) || !strings.Contains(errOut.String(), "of ci ") {
		t.Errorf("standard output %q, standard error %q", out.String(), errOut.String())
	}
	err := createToken(file, access.Token{Name: "ci"}, brokenWriter{}, &errOut)
	if err == nil || !strings.Contains(err.Error(), "could not be printed") || strings.Contains(err.Error(), "assay_") {
		t.Errorf("to nobody: %v", err)
	}
}
