package content

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
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

	// For other replicas: the number of the last push that was noted when the question began, and the
	// generation of the facts when the answer was stored.
	push, facts int64
}

// Text returns the answer as a response of the protocol. It must not be changed.
func (m *Answer) Text() []byte {
	if m.Info != nil {
		return m.Info
	}
	return m.Versions.Text()
}

// asked is when an answer was asked for: its age counts from the question.
type asked struct {
	at   time.Time
	push int64 // the number of the last push that was noted
}

// before reports whether the answer is from before a push; the zero value is no push. An
// answer from the future counts as from before it: the clock was set back, so its real
// time is unknown.
func (m *Answer) before(p push) bool {
	return m.push < p.number || !p.at.IsZero() && (!m.fetched.After(p.at) || m.fetched.After(time.Now()))
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

// encode returns m as it is stored: the time in milliseconds since 1970, if there are replicas the numbers
// for them, a newline, the text.
func (m *Answer) encode() []byte {
	data := strconv.AppendInt(nil, m.fetched.UnixMilli(), 10)
	if m.push != 0 || m.facts != 0 {
		data = fmt.Appendf(data, " %d %d", m.push, m.facts)
	}
	return append(append(data, '\n'), m.Text()...)
}

// decodeAnswer is the inverse of encode. The answer takes the memory of data.
func decodeAnswer(kind request.Kind, data []byte) (*Answer, error) {
	line, text, ok := bytes.Cut(data, []byte{'\n'})
	if !ok {
		return nil, errors.New("it has no time")
	}
	var numbers [3]int64 // the time, and those for replicas
	fields := strings.Fields(string(line[:min(len(line), 100)]))
	if len(fields) != 1 && len(fields) != len(numbers) {
		return nil, errors.New("it does not begin with its time")
	}
	for i, field := range fields {
		number, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return nil, err
		}
		numbers[i] = number
	}
	m := &Answer{fetched: time.UnixMilli(numbers[0]), push: numbers[1], facts: numbers[2]}
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

	replicas *replicas
}

// name returns the name of the state with the answer for req.
func (a *answers) name(req request.Request) string { return a.prefix + req.Path() }

// find returns the stored answer for req, nil if there is none. Its memory is counted for
// the client, if it is not nil, until the client has received it. With the answer all facts are known that the
// replica knew which stored it: they may say that the client must not read it.
func (a *answers) find(ctx context.Context, c Client, req request.Request) (*Answer, error) {
	name := a.name(req)
	data, err := a.read(ctx, name)
	if err == nil && c != nil {
		err = c.Keep(len(data))
	}
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
	if !a.replicas.facts.table.Knows(m.facts) {
		err = a.replicas.facts.renew(ctx)
	}
	return m, err
}

func (a *answers) read(ctx context.Context, name string) ([]byte, error) {
	a.reading <- struct{}{}
	defer func() { <-a.reading }()
	return a.held.State(ctx, storage.Key(name))
}

// asks returns the moment of a question.
func (a *answers) asks() asked { return asked{time.Now(), a.replicas.pushes.noted()} }

// keep stores the answer for req, and returns it.
func (a *answers) keep(ctx context.Context, req request.Request, m *Answer) *Answer {
	m.facts = a.replicas.facts.generation()
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
func (a *answers) keepInfo(ctx context.Context, req request.Request, asked asked, info vcs.Info) (*Answer, error) {
	data, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return a.keep(ctx, req, &Answer{Info: data, fetched: asked.at, push: asked.push}), nil
}
