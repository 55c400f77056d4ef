package bindings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/assay-proxy/assay/storage"
)

// ErrLost says that stored facts cannot be read. Without them Assay would serve protected
// repositories to every client.
var ErrLost = errors.New("what this proxy knew about the repositories of its modules is lost; restore meta.db and blobs.db from a backup, or move both away and start with an empty store")

const indexName = "bindings/index"

func shardName(n int) string { return fmt.Sprintf("bindings/%02x", n) }

// index is the state that says what the other states must have. It is written after
// them, so they may have more than it says, never less.
type index struct {
	Log    int64       // entries of the own log that the facts cover
	Counts map[int]int // facts by shard; empty shards have no entry

	// Changed has the generation of the last change of each shard. A change has a higher generation than
	// all changes before it.
	Changed map[int]int64 `json:",omitempty"`
}

// newest returns the generation of the last change.
func (i index) newest() (newest int64) {
	for _, generation := range i.Changed {
		newest = max(newest, generation)
	}
	return newest
}

// next returns a generation that is higher than all before. It begins with the time, so that it is higher,
// too, than those of a newer index that a backup has replaced.
func (i index) next() int64 { return max(i.newest()+1, time.Now().UnixMilli()) }

// states are the index and the shards in a store.
type states struct {
	store storage.Store
	alone bool // no other process changes them
}

// index returns the index, an empty one if there is none.
func (s states) index(ctx context.Context) (index, error) {
	data, err := s.read(ctx, indexName)
	if err != nil {
		return index{}, err
	}
	return decodeIndex(data)
}

func decodeIndex(data []byte) (index, error) {
	i := index{Counts: map[int]int{}}
	if data != nil {
		if err := json.Unmarshal(data, &i); err != nil || i.Counts == nil {
			return index{}, fmt.Errorf("state %s: %w (%v)", indexName, ErrLost, err)
		}
	}
	if i.Changed == nil {
		i.Changed = map[int]int64{}
	}
	return i, nil
}

// changeIndex changes the index, of which change gets a copy, and returns the old one and the new one.
func (s states) changeIndex(ctx context.Context, change func(*index)) (old, changed index, err error) {
	err = s.change(ctx, indexName, func(data []byte) ([]byte, error) {
		var err error
		if old, err = decodeIndex(data); err != nil && !s.alone {
			return nil, err
		} else if err != nil {
			old, _ = decodeIndex(nil) // it is written anew
		}
		changed = index{old.Log, maps.Clone(old.Counts), maps.Clone(old.Changed)}
		change(&changed)
		return json.Marshal(changed)
	})
	return old, changed, err
}

// shard returns the facts of a shard. There must be at least so many.
func (s states) shard(ctx context.Context, n, atLeast int) ([]Fact, error) {
	data, err := s.read(ctx, shardName(n))
	if err != nil {
		return nil, err
	}
	facts, err := decodeShard(n, data)
	if err == nil && len(facts) < atLeast {
		err = fmt.Errorf("state %s: %w (it has %d facts of %d)", shardName(n), ErrLost, len(facts), atLeast)
	}
	return facts, err
}

func decodeShard(n int, data []byte) ([]Fact, error) {
	facts, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("state %s: %w (%v)", shardName(n), ErrLost, err)
	}
	for _, f := range facts {
		if shardOf(f.Repository) != n {
			return nil, fmt.Errorf("state %s: %w (it is another one)", shardName(n), ErrLost)
		}
	}
	return facts, nil
}

// changeShard makes the facts of a shard those that change returns for what is stored.
func (s states) changeShard(ctx context.Context, n int, change func(stored []Fact) ([]Fact, error)) error {
	return s.change(ctx, shardName(n), func(data []byte) ([]byte, error) {
		stored, err := decodeShard(n, data)
		if err != nil && !s.alone {
			return nil, err
		}
		facts, err := change(stored)
		return encode(facts), err
	})
}

// change makes the value of a state what edit returns for the old one, nil if there is none. It is repeated
// while other replicas change the state.
func (s states) change(ctx context.Context, name string, edit func(old []byte) ([]byte, error)) error {
	for {
		old, err := s.read(ctx, name)
		damaged := errors.Is(err, ErrLost)
		if err != nil && !(damaged && s.alone) { // alone, the table in memory has all of it
			return err
		}
		value, err := edit(old)
		if err != nil {
			return err
		}
		if damaged {
			err = s.store.SetState(ctx, name, value)
		} else {
			err = s.store.SwapState(ctx, name, old, value)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, storage.ErrConflict) {
			return fmt.Errorf("note the repository of a module: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("note the repository of a module: %w", ctx.Err())
		case <-time.After(rand.N(20 * time.Millisecond)):
		}
	}
}

// read returns a state, nil if there is none.
func (s states) read(ctx context.Context, name string) ([]byte, error) {
	data, err := s.store.State(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, storage.ErrDamaged):
		return nil, fmt.Errorf("state %s: %w (%v)", name, ErrLost, err)
	case err != nil:
		return nil, fmt.Errorf("state %s: %w", name, err)
	case data == nil:
		return []byte{}, nil
	}
	return data, nil
}
