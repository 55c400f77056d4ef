package admin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// The header of an answer whose end is known only when it has begun: the trailer with
// the error that ended it.
const errorTrailer = "Assay-Error"

// damageTrailer is the trailer that is set if this error is storage.ErrDamaged.
const damageTrailer = "Assay-Damage"

// readerPatience is how long a client may take nothing of an answer. A backup that is not
// read holds what is deleted meanwhile, and a compaction or another backup waits for it.
const readerPatience = 5 * time.Minute

// stream answers with what write writes. An error ends the answer, and its text follows.
func stream(w http.ResponseWriter, write func(io.Writer) error) error {
	w.Header().Set("Trailer", errorTrailer+", "+damageTrailer)
	err := write(&impatient{w, http.NewResponseController(w)})
	text := ""
	if err != nil {
		text = line(err)
	}
	w.Header().Set(errorTrailer, text)
	if errors.Is(err, storage.ErrDamaged) {
		w.Header().Set(damageTrailer, "yes")
	}
	return err
}

// impatient is a writer that gives each write some time.
type impatient struct {
	to      io.Writer
	control *http.ResponseController
}

func (i *impatient) Write(b []byte) (int, error) {
	if err := i.control.SetWriteDeadline(time.Now().Add(readerPatience)); err != nil {
		return 0, err
	}
	n, err := i.to.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("the command has read nothing for %v: %w", readerPatience, err)
	}
	return n, err
}

// answeredError is an error with which the server has responded.
type answeredError struct {
	text   string
	status int
}

func (e *answeredError) Error() string { return e.text }

// Is reports whether the server has said this kind of error, see refuse.
func (e *answeredError) Is(kind error) bool {
	return kind == fs.ErrNotExist && e.status == http.StatusNotFound || kind == storage.ErrDamaged && e.status == http.StatusGone
}

// body is the answer of stream: its end is an error if the trailer has one, or if
// there is none.
type body struct{ resp *http.Response }

func (b *body) Read(p []byte) (int, error) {
	n, err := b.resp.Body.Read(p)
	if err == io.EOF {
		switch text := b.resp.Trailer[errorTrailer]; {
		case len(text) == 0:
			err = io.ErrUnexpectedEOF
		case text[0] != "":
			status := http.StatusInternalServerError
			if b.resp.Trailer.Get(damageTrailer) != "" {
				status = http.StatusGone
			}
			err = &answeredError{text[0], status}
		}
	}
	return n, err
}

func (b *body) Close() error { return b.resp.Body.Close() }

// line is the text of an error in one line.
func line(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
