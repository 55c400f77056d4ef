package bindings

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
)

// How says how a repository was read under a module path.
type How uint8

const (
	// Unknown: read by a version of this program that did not note it.
	Unknown How = iota
	// Open: read without a credential.
	Open
	// Credential: read with a credential. It takes precedence over the others.
	Credential
	// Declared: not read under this path; a go.mod file in the repository declares the
	// path.
	Declared
)

// Fact states that a repository was read.
type Fact struct {
	Repository string // as vcs.CanonicalRepository returns it
	Module     string // path
	Public     bool   // the module was not private
	How        How
}

// shards is how many states the facts are spread over, by repository: a changed
// state is written as a whole, and a state has at most 16 MiB.
const shards = 64

func shardOf(repository string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(repository)) // never fails
	return int(h.Sum32() % shards)
}

func countDeclared(facts []Fact) (n int) {
	for _, f := range facts {
		if f.How == Declared {
			n++
		}
	}
	return n
}

// about returns what a fact has in common with others about the same module in the same repository.
func (f Fact) about() Fact {
	f.How /= Declared // a declared path is a different fact
	return f
}

// same reports whether two facts are about the same module in the same repository.
func (f Fact) same(other Fact) bool { return f.about() == other.about() }

// replaces reports whether f says more than another fact about the same module and repository.
func (f Fact) replaces(other Fact) bool {
	return other.How != Credential && f.How != Unknown && other.How != f.How
}

// changes reports whether f is new to facts, or says more than the one about the same module and repository.
func (f Fact) changes(facts []Fact) bool {
	i := slices.IndexFunc(facts, f.same)
	return i < 0 || f.replaces(facts[i])
}

// merge returns facts with more added, as strongest does one by one, and those of more that have changed it. There may be
// thousands of both.
func merge(facts, more []Fact) (all, changed []Fact) {
	all = slices.Clone(facts) // it is shared with readers
	at := make(map[Fact]int, len(all)+len(more))
	for i, f := range all {
		at[f.about()] = i
	}
	for _, f := range more {
		i, known := at[f.about()]
		switch {
		case !known:
			at[f.about()] = len(all)
			all = append(all, f)
		case f.replaces(all[i]):
			all[i] = f
		default:
			continue
		}
		changed = append(changed, f)
	}
	return all, changed
}

// strongest returns facts with f added; f replaces the fact about the same module and
// repository if it says more.
func strongest(facts []Fact, f Fact) []Fact {
	i := slices.IndexFunc(facts, f.same)
	switch {
	case i < 0:
		return append(slices.Clip(facts), f)
	case !f.changes(facts):
		return facts
	}
	facts = slices.Clone(facts) // it is shared with readers
	facts[i] = f
	return facts
}

// A shard consists of lines of four fields, the last two quoted as in Go:
//
//	private|public open|credential|unknown|declared "repository" "module"

var words = []string{Unknown: "unknown", Open: "open", Credential: "credential", Declared: "declared"}

func encode(facts []Fact) []byte {
	var b strings.Builder
	for _, f := range facts {
		reach := "private"
		if f.Public {
			reach = "public"
		}
		fmt.Fprintf(&b, "%s %s %q %q\n", reach, words[f.How], f.Repository, f.Module)
	}
	return []byte(b.String())
}

func decode(data []byte) ([]Fact, error) {
	var facts []Fact
	for line := range strings.Lines(string(data)) {
		var reach, how string
		var f Fact
		if _, err := fmt.Sscanf(line, "%s %s %q %q\n", &reach, &how, &f.Repository, &f.Module); err != nil {
			return nil, fmt.Errorf("%.100q is no fact: %w", line, err)
		}
		word := slices.Index(words, how)
		if f.Public = reach == "public"; word < 0 || !f.Public && reach != "private" {
			return nil, fmt.Errorf("%.100q is no fact", line)
		}
		f.How = How(word)
		facts = append(facts, f)
	}
	return facts, nil
}
