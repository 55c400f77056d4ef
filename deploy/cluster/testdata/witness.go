package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// witnessed is what the witness leaves for the report.
type witnessed struct {
	Entries, Heads, Sizes int // Sizes: how many sizes the heads had
	ClientHeads, Pins     int
}

// observer follows one log at several servers. It computes everything with x/mod.
type observer struct {
	name     string
	verifier note.Verifier
	servers  []string
	sizes    map[int64]tlog.Hash // all trees that had a signed head
	largest  tlog.Tree           // of those that are proved to continue each other
	heads    int
}

// errAway says that a server did not answer, or not with what was asked for: it says nothing about the log.
var errAway = errors.New("no answer")

// witness follows the log, and fails if two heads contradict each other. In the end, which is when servers are well and
// the witness is interrupted, it rebuilds the tree from all entries and compares it with each head that it or a client has
// seen, and looks for each pin that a client was told of.
func witness(ctx context.Context, key string, servers []string) error {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return err
	}
	o := &observer{name: verifier.Name(), verifier: verifier, servers: servers, sizes: map[int64]tlog.Hash{}}
	for ctx.Err() == nil {
		for _, server := range servers {
			if err := o.look(ctx, server); err != nil && !errors.Is(err, errAway) {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
	defer cancel()
	for _, server := range servers {
		if err := o.look(final, server); err != nil {
			return err
		}
	}
	for _, server := range servers {
		if err := o.rebuild(final, server); err != nil {
			return fmt.Errorf("%s: %w", server, err)
		}
	}
	return nil
}

// look reads the head of a server, and proves that it continues the largest one, or is one before it.
func (o *observer) look(ctx context.Context, server string) error {
	text, err := o.read(ctx, server, "latest")
	if err != nil {
		return err
	}
	tree, err := o.open(text)
	if err != nil {
		return fmt.Errorf("%s: %w", server, err)
	}
	o.heads++
	if known, ok := o.sizes[tree.N]; ok {
		if known != tree.Hash {
			return fmt.Errorf("two signed heads of size %d: %v, and at %s %v", tree.N, known, server, tree.Hash)
		}
		return nil
	}
	if err := o.continues(ctx, server, tree); err != nil {
		return err
	}
	o.sizes[tree.N] = tree.Hash
	return nil
}

func (o *observer) open(text []byte) (tlog.Tree, error) {
	head, err := note.Open(text, note.VerifierList(o.verifier))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("a head is not signed: %w: %q", err, text)
	}
	return tlog.ParseTree([]byte(head.Text))
}

// continues proves with the tiles of a server that a new tree and the largest one are one log.
func (o *observer) continues(ctx context.Context, server string, tree tlog.Tree) error {
	larger, smaller := tree, o.largest
	if larger.N < smaller.N {
		larger, smaller = smaller, larger
	}
	if smaller.N > 0 {
		hash, err := tlog.TreeHash(smaller.N, tlog.TileHashReader(larger, &tiles{ctx, o, server}))
		if err != nil {
			return fmt.Errorf("proof that %d entries continue %d at %s: %w", larger.N, smaller.N, server, err)
		}
		if hash != smaller.Hash {
			return fmt.Errorf("the log with %d entries at %s does not continue the one with %d entries: it has %v there, and not %v",
				larger.N, server, smaller.N, hash, smaller.Hash)
		}
	}
	o.largest = larger
	return nil
}

// rebuild reads all entries from a server, and compares everything with them.
func (o *observer) rebuild(ctx context.Context, server string) error {
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			found[i] = hashes[index]
		}
		return found, nil
	})
	lines := map[string]bool{}
	for n := int64(0); n < o.largest.N; {
		width := min(256, o.largest.N-n)
		data, err := o.read(ctx, server, tlog.Tile{H: 8, L: -1, N: n / 256, W: int(width)}.Path())
		if err != nil {
			return err
		}
		records := strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n\n")
		if int64(len(records)) != width {
			return fmt.Errorf("a tile of %d entries has %d", width, len(records))
		}
		for _, record := range records {
			record = strings.TrimSuffix(record, "\n\n")
			record = strings.TrimSuffix(record, "\n") + "\n"
			more, err := tlog.StoredHashes(n, []byte(record), reader)
			if err != nil {
				return err
			}
			hashes = append(hashes, more...)
			for line := range strings.Lines(record) {
				lines[strings.TrimSuffix(line, "\n")] = true
			}
			n++
		}
	}
	compare := func(size int64, want tlog.Hash) error {
		if size > o.largest.N {
			return fmt.Errorf("a client has a head of %d entries, and the log has %d", size, o.largest.N)
		}
		got, err := tlog.TreeHash(size, reader)
		if err == nil && got != want {
			err = fmt.Errorf("the head of %d entries has %v, and the entries make %v", size, want, got)
		}
		return err
	}
	for size, hash := range o.sizes {
		if err := compare(size, hash); err != nil {
			return err
		}
	}
	all, err := readNoted()
	if err != nil {
		return err
	}
	result := witnessed{Entries: int(o.largest.N), Heads: o.heads, Sizes: len(o.sizes)}
	pins := map[string]bool{}
	for _, n := range all {
		if n.Head != nil {
			tree, err := o.open(n.Head)
			if err != nil {
				return err
			}
			if err := compare(tree.N, tree.Hash); err != nil {
				return err
			}
			result.ClientHeads++
		}
		for _, line := range n.Sums {
			if pins[line] = true; !lines[line] {
				return fmt.Errorf("a client has %q, which is not in the log", line)
			}
		}
	}
	result.Pins = len(pins)
	log.Printf("%s: %+v", server, result)
	return writeJSON("witnessed", result)
}

// read returns a file of the log.
func (o *observer) read(ctx context.Context, server, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	status, body, err := get(ctx, server+"/sumdb/"+o.name+"/"+path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d %.200q", status, body)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errAway, path, err)
	}
	return body, nil
}

// tiles are those of a server, as x/mod wants them.
type tiles struct {
	ctx    context.Context
	of     *observer
	server string
}

func (t *tiles) Height() int { return 8 }

func (t *tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range wanted {
		data, err := t.of.read(t.ctx, t.server, tile.Path())
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func (t *tiles) SaveTiles([]tlog.Tile, [][]byte) {}
