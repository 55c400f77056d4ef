package content

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"time"

	evidencedir "github.com/assay-proxy/assay/internal/evidence"
	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// evidence records contradictions for the administrator.
type evidence struct {
	dir     evidencedir.Dir
	metrics *metrics
	log     *slog.Logger
}

// compare returns a *MismatchError, and keeps it as evidence, if the hash of the content
// that a source sent for req is not that of the database. Without a wanted hash there is
// nothing to compare.
func (e evidence) compare(req request.Request, source, got, want, database string) error {
	if want == "" || got == want {
		return nil
	}
	file := req.Kind.String()
	if req.Kind == request.Mod {
		file = "go.mod"
	}
	mismatch := &MismatchError{
		Module: req.Module, Version: req.Version, File: file,
		Got: got, Want: want, Source: source, Database: database,
	}
	e.metrics.mismatches.Inc()
	kept, err := e.keepMismatch(mismatch, time.Now())
	e.log.Error("checksum mismatch", "module", req.Module, "version", req.Version, "file", file,
		"source", source, "got", got, "want", want, "evidence", kept)
	if err != nil {
		e.log.Error("evidence of a checksum mismatch not saved", "err", err)
	}
	return mismatch
}

// keepMismatch records that an upstream sent other content than the checksum database
// states.
func (e evidence) keepMismatch(m *MismatchError, now time.Time) (string, error) {
	return e.keep("mismatch", m.Module+"@"+m.Version+"-"+m.File+"-"+m.Got, fmt.Sprintf(`checksum mismatch
time:     %s
module:   %s
version:  %s
file:     %s
upstream: %s
got:      %s
database: %s
expected: %s

The content was not stored and not served. Compare with another upstream; if it
differs there too, tell the module's author and golang.org/issue.
`, now.UTC().Format(time.RFC3339), m.Module, m.Version, m.File, m.Source, m.Got, m.Database, m.Want))
}

// noteChanged logs and records that a private version has other content than when it was
// pinned.
func (e evidence) noteChanged(changed *pinlog.ConflictError) {
	e.metrics.changed.Inc()
	name := changed.Have.Module.String() + "-" + changed.Got.Zip + changed.Got.Mod
	kept, err := e.keep("changed", name, fmt.Sprintf(`a private version has changed
time:    %s
module:  %s
first:   %s
         zip %s
         go.mod %s
         %s
now:     zip %s
         go.mod %s
         %s

What was seen first stays: it is served, and nothing else. Find out who moved the tag,
or what happened to the disk.
`, time.Now().UTC().Format(time.RFC3339), changed.Have.Module, changed.Have.Time.Format(time.RFC3339),
		changed.Have.Zip, changed.Have.Mod, changed.Have.Origin, changed.Got.Zip, changed.Got.Mod, changed.Got.Origin))
	e.log.Error("private version changed", "module", changed.Have.Module.Path, "version", changed.Have.Module.Version,
		"err", changed, "evidence", kept, "evidence_err", err)
}

// keep writes a text of a kind about a version, once. It returns the path of the file.
func (e evidence) keep(kind, about, content string) (string, error) {
	sum := sha256.Sum256([]byte(about))
	return e.dir.Keep(kind, fmt.Sprintf("%s-%x", evidenceName(about), sum[:6]), content)
}

// evidenceName makes s a part of a file name. It is not unique: several texts have the
// same.
func evidenceName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '@':
			return r
		}
		return '_'
	}, s)
	return text.Clip(s, 200)
}
