package vcs

import (
	"context"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/internal/memory"
)

var (
	Clear = clear
)

const MaxAtHost = maxAtHost

type (
	HostLimit = hostLimit
	Places    = slots
)

func (l *hostLimit) Enter(ctx context.Context, host string) (leave func(), err error) {
	return l.enter(ctx, host)
}

func (p *slots) Take(ctx context.Context, n int) (release func(), err error) {
	return p.take(ctx, []bound{{"all", n}})
}

func ParseGoImports(page string) (all [][4]string) {
	imports, _ := parseGoImports(strings.NewReader(page))
	for _, i := range imports {
		all = append(all, [4]string{i.prefix, i.system, i.repo, i.subdir})
	}
	return all
}

// Output returns how much of a command's output is in memory, with a budget of size bytes,
// and why the command was killed, nil if it was not.
func Output(t testing.TB, size, printed int64) (kept int, ended error) {
	ctx, cancel := context.WithCancelCause(t.Context())
	budget := memory.New(size)
	held := budget.Hold()
	defer held.Free()
	out := &limited{limit: maxOutput, over: cancel, held: &held}
	for range printed >> 10 {
		if _, err := out.Write(make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	return out.Cap(), context.Cause(ctx)
}

// MaxOutput is maxOutput.
const MaxOutput = maxOutput

// LocalFailure is localFailure, for tests.
func LocalFailure(trace string) error { return localFailure(trace) }
