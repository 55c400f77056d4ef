package admin

import (
	"errors"
	"io"
	"net/http"
	"strings"
)

// The header of an answer whose end is known only when it has begun: the trailer with
// the error that ended it.
const errorTrailer = "Assay-Error"

// stream answers with what write writes. An error ends the answer, and its text follows.
func stream(w http.ResponseWriter, write func(io.Writer) error) error {
	w.Header().Set("Trailer", errorTrailer)
	err := write(w)
	text := ""
	if err != nil {
		text = line(err)
	}
	w.Header().Set(errorTrailer, text)
	return err
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
			err = errors.New(text[0])
		}
	}
	return n, err
}

func (b *body) Close() error { return b.resp.Body.Close() }

// line is the text of an error in one line.
func line(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
