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

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
)

// Answer is a list, a latest version or the commit of a branch, as an upstream had it.
type Answer struct {
	Versions Versions  // of a list
	Info     []byte    // otherwise: the .info of the latest version or of the commit
	Tag      []string  // the header with the entity tag, which must not be changed; nil: it is not ready
	fetched  time.Time // the zero time if it is made from stored versions
}

// Text returns the answer as a response of the protocol. It must not be changed.
func (m *Answer) Text() []byte {
	if m.Info != nil {
		return m.Info
	}
	return m.Versions.Text()
}

// before reports whether the answer is from before a push; the zero time is no push. An
// answer from the future counts as from before it: the clock was set back, so its real
// time is unknown.
func (m *Answer) before(push time.Time) bool {
	return !push.IsZero() && (!m.fetched.After(push) || m.fetched.After(time.Now()))
}

// age returns the age of the answer; the largest duration if there is no answer, or if it
// is from the future, because the clock was set back.
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

// encode returns m as it is stored: the time in milliseconds since 1970, a newline, the
// text.
func (m *Answer) encode() []byte {
	data := strconv.AppendInt(nil, m.fetched.UnixMilli(), 10)
	return append(append(data, '\n'), m.Text()...)
}

// decodeAnswer is the inverse of encode. The answer takes the memory of data.
func decodeAnswer(kind request.Kind, data []byte) (*Answer, error) {
	millis, text, ok := bytes.Cut(data, []byte{'\n'})
	if !ok {
		return nil, errors.New("it has no time")
	}
	fetched, err := strconv.ParseInt(string(millis), 10, 64)
	if err != nil {
		return nil, err
	}
	m := &Answer{fetched: time.UnixMilli(fetched)}
	if kind == request.List {
		m.Versions = Versions{text} // we stored it, so it is sorted
	} else {
		m.Info = text
	}
	return m, nil
}

// parseAnswer returns the answer of an upstream for req, whose text is data. It takes the
// memory of data.
func parseAnswer(req request.Request, data []byte) (*Answer, error) {
	if req.Kind == request.List {
		versions, err := parseVersions(req.Module, data)
		return &Answer{Versions: versions}, err
	}
	version, err := parseInfo(data)
	if err == nil {
		err = module.Check(req.Module, version)
	}
	return &Answer{Info: data}, err
}

// The prefixes of the names of states, see answers.prefix.
const (
	publicPrefix  = ""
	privatePrefix = "private/"
)

// answers are the stored answers of an origin, each a state.
type answers struct {
	// prefix precedes the path in the name of a state. The answers of an upstream about
	// a module are kept apart from those of its repository from when it was private: one
	// never replaces the other. No module path begins with an element without a dot.
	prefix string

	held    holdings
	gate    *gate.Gate
	log     *slog.Logger
	reading chan struct{} // has an element for each answer that is being read
}

// name returns the name of the state with the answer for req.
func (a *answers) name(req request.Request) string { return a.prefix + req.Path() }

// find returns the stored answer for req, nil if there is none. Its memory is counted for
// the client until the client has received it.
func (a *answers) find(ctx context.Context, c Client, req request.Request) (*Answer, error) {
	name := a.name(req)
	data, err := a.read(ctx, c, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeAnswer(req.Kind, data)
	if err != nil {
		a.log.Warn("saved answer ignored", "key", name, "err", err)
		return nil, nil
	}
	return m, nil
}

func (a *answers) read(ctx context.Context, c Client, name string) ([]byte, error) {
	a.reading <- struct{}{}
	defer func() { <-a.reading }()
	data, err := a.held.State(ctx, storage.Key(name))
	if err == nil {
		err = c.Keep(len(data))
	}
	return data, err
}

// keep stores the answer for req, and returns it.
func (a *answers) keep(ctx context.Context, req request.Request, m *Answer) *Answer {
	store, err := a.gate.Store(req.Module)
	if err == nil {
		err = store.SetState(ctx, storage.Key(a.name(req)), m.encode())
	}
	if err != nil {
		// The answer is still valid; the next request asks again.
		a.log.Warn("answer not saved", "key", a.name(req), "err", err)
	}
	return m
}

// keepInfo stores an answer that is a version. Its age counts from the question.
func (a *answers) keepInfo(ctx context.Context, req request.Request, asked time.Time, info vcs.Info) (*Answer, error) {
	data, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return a.keep(ctx, req, &Answer{Info: data, fetched: asked}), nil
}
