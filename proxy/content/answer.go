package content

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"strconv"
	"time"

	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// Answer is a list, a latest version or what a branch points to, as an
// upstream had it.
type Answer struct {
	Body    []byte
	fetched time.Time // the zero time if it is made from what is held
}

// before reports whether the answer is from before a push; the zero time is none. If
// the answer is from a time that is yet to come, the clock was set back, and nobody
// knows.
func (m *Answer) before(push time.Time) bool {
	return !push.IsZero() && (!m.fetched.After(push) || m.fetched.After(time.Now()))
}

// age returns how old the answer is; for ever if there is none, or if the clock
// has been set back behind it.
func (m *Answer) age() time.Duration {
	if m == nil {
		return 1<<63 - 1
	}
	age := time.Since(m.fetched)
	if age < -time.Minute {
		return 1<<63 - 1
	}
	return age
}

// encode returns m as it is kept: the time in milliseconds since 1970, a newline,
// the body.
func (m *Answer) encode() []byte {
	data := strconv.AppendInt(nil, m.fetched.UnixMilli(), 10)
	return append(append(data, '\n'), m.Body...)
}

func decodeAnswer(data []byte) (*Answer, error) {
	millis, body, ok := bytes.Cut(data, []byte{'\n'})
	if !ok {
		return nil, errors.New("it has no time")
	}
	fetched, err := strconv.ParseInt(string(millis), 10, 64)
	if err != nil {
		return nil, err
	}
	return &Answer{body, time.UnixMilli(fetched)}, nil
}

// The prefixes of records, see records.prefix.
const (
	publicPrefix  = ""
	privatePrefix = "private/"
)

// records are the answers of an origin that are kept.
type records struct {
	// prefix is before the path in the name of a record. What an upstream said of a
	// module is kept apart from what its repository said when it was private: neither is
	// ever given for the other. No module path begins with an element without a dot.
	prefix string

	held    holdings
	gate    *gate.Gate
	log     *slog.Logger
	reading chan struct{} // a place for each answer that is being read
}

// name returns the name of the record with the answer for req.
func (r *records) name(req request.Request) string { return r.prefix + req.Path() }

// find returns the answer that is kept for req, nil if there is none. It counts as held
// until the client has it.
func (r *records) find(ctx context.Context, c Client, req request.Request) (*Answer, error) {
	name := r.name(req)
	data, err := r.read(ctx, c, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeAnswer(data)
	if err != nil {
		r.log.Warn("saved answer ignored", "key", name, "err", err)
		return nil, nil
	}
	return m, nil
}

func (r *records) read(ctx context.Context, c Client, name string) ([]byte, error) {
	r.reading <- struct{}{}
	defer func() { <-r.reading }()
	data, err := r.held.Record(ctx, storage.Key(name))
	if err == nil {
		err = c.Keep(len(data))
	}
	return data, err
}

// keep keeps an answer. It is as old as the question.
func (r *records) keep(ctx context.Context, req request.Request, asked time.Time, body []byte) *Answer {
	m := &Answer{body, asked}
	store, err := r.gate.Store(req.Module)
	if err == nil {
		err = store.SetRecord(ctx, storage.Key(r.name(req)), m.encode())
	}
	if err != nil {
		// The answer is good all the same; the next one asks again.
		r.log.Warn("answer not saved", "key", r.name(req), "err", err)
	}
	return m
}

// keepInfo keeps an answer that is a version.
func (r *records) keepInfo(ctx context.Context, req request.Request, asked time.Time, info vcs.Info) (*Answer, error) {
	data, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return r.keep(ctx, req, asked, data), nil
}
