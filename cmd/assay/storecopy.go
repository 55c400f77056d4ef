package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
)

// copies is how many objects are copied at a time.
const copies = 8

// copiedState is the name of a state in a store that was copied into: for each state the hash of the value that was
// copied, by which a later copy sees what the servers of that store have changed since. Servers ignore it.
const copiedState = "copied"

// storeCopy is one copy of a store into another one.
type storeCopy struct {
	from     *admin.Client
	to       storage.Store
	progress func(done copied)

	purged []admin.Purge // that the target knew, or this copy has repeated
	record []byte        // of purges in the source that are repeated before the objects are copied; nil: there are none

	mu   sync.Mutex // guards done
	done copied
}

// copied counts what a copy has done.
type copied struct {
	Objects, Bytes int64 // that were copied
	Held           int64 // objects that were there
	States         int64 // that were copied
	Damaged        []string
}

// run copies all objects, and then all states: what a state refers to is there when the state is. What is in the target
// with the same content is not copied again, so a copy that was interrupted goes on where it was. What was purged since
// the last copy is purged in the target first. What is purged while objects are copied is purged in the target at the
// end, when its states say whose objects it has. A state of the target that ends the copy does so before all that, too:
// the objects may take hours.
func (c *storeCopy) run(ctx context.Context) (copied, error) {
	for _, step := range []func(context.Context) error{c.check, c.purges, c.objects, c.states, c.purges} {
		if err := step(ctx); err != nil {
			return c.done, err
		}
	}
	return c.done, nil
}

// local reports whether an object or a state belongs to a store itself, to its own log, or to the servers that use it,
// and is no part of a copy.
func localToStore(name string) bool {
	return name == "store" || name == "news" || name == "unconditional" || name == "purging" || name == copiedState ||
		strings.HasPrefix(name, storage.LogPrefix) || strings.HasPrefix(name, "lease/") || name == "leaks"
}

// purges repeats the purges of the source that neither this copy has repeated nor the target knew before.
func (c *storeCopy) purges(ctx context.Context) error {
	record, err := c.from.State(ctx, admin.PurgesState) // before Purges, which then has all of it, and perhaps more
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all, err := c.from.Purges(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	if c.purged == nil {
		target := admin.Local(&admin.Server{Store: c.to, Logger: slog.New(slog.DiscardHandler)})
		defer target.Close()
		if c.purged, err = target.Purges(ctx); err != nil {
			return err
		}
	}
	for _, p := range all {
		if slices.Contains(c.purged, p) {
			continue
		}
		if _, err := content.Purge(ctx, c.to, module.Version{Path: p.Module, Version: p.Version}); err != nil {
			return fmt.Errorf("repeat the purge of %s: %w", p.Module, err)
		}
		c.purged = append(c.purged, p)
	}
	c.record = record
	return nil
}

// objects copies the objects. Both lists are in the order of keys, so no request is needed to find what is missing.
func (c *storeCopy) objects(ctx context.Context) error {
	held, stop := iter.Pull2(c.to.Keys(ctx, ""))
	defer stop()
	next, err, more := held()
	var keys []string // all of them first: a server does not wait for one who reads them as slowly as objects are copied
	for key, listErr := range c.from.Keys(ctx) {
		if err = errors.Join(err, listErr); err != nil {
			return err
		}
		if !localToStore(key) {
			keys = append(keys, key)
		}
	}
	group, copying := errgroup.WithContext(ctx)
	group.SetLimit(copies)
	for _, key := range keys {
		if err != nil || copying.Err() != nil {
			break
		}
		for more && err == nil && next < key {
			next, err, more = held()
		}
		there := more && err == nil && next == key
		group.Go(func() error { return c.object(copying, key, there) })
	}
	return errors.Join(group.Wait(), err)
}

// object copies an object, and reads back what the target says of it.
func (c *storeCopy) object(ctx context.Context, key string, there bool) error {
	object, err := c.from.Object(ctx, key)
	switch {
	case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		return nil
	case errors.Is(err, storage.ErrDamaged):
		c.damaged(key)
		return nil
	case err != nil:
		return err
	}
	defer object.Close()
	read := &source{Reader: object}
	if !there {
		err = c.to.Create(ctx, object.Info, read)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		if errors.Is(read.err, storage.ErrDamaged) {
			c.damaged(key)
			return nil
		}
		return fmt.Errorf("copy %s: %w", key, err)
	}
	made := err == nil && !there
	err = c.same(ctx, object)
	if errors.Is(err, errOther) && strings.HasSuffix(key, ".info") {
		// No database covers it, so servers replace one that an upstream has changed.
		made, err = true, c.replace(ctx, object)
	}
	if errors.Is(err, errOther) && isHead(key) {
		err = c.sameHead(ctx, key, err)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if made {
		c.done.Objects++
		c.done.Bytes += object.Info.Size
	} else {
		c.done.Held++
	}
	c.progress(c.done)
	return nil
}

// source remembers the error of its reader: errors of a target may be of the same kind.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.err = err
	return n, err
}

func (c *storeCopy) damaged(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done.Damaged = append(c.done.Damaged, key)
}

// same checks that the target has the same object.
func (c *storeCopy) same(ctx context.Context, object admin.Object) error {
	key := object.Info.Key
	stored, err := c.to.Open(ctx, key)
	if err != nil {
		return fmt.Errorf("%s in the target: %w", key, err)
	}
	defer stored.Close()
	info := stored.Info()
	if info.Size != object.Info.Size || info.Hash != object.Info.Hash || info.Proof != object.Info.Proof || stored.SHA256() != object.SHA256 {
		return fmt.Errorf("%s: %w; find out which one is right, or begin with an empty target", key, errOther)
	}
	return nil
}

// isHead reports whether an object is a tree head of a checksum database, with the time at which a store got it.
func isHead(key string) bool {
	rest, ok := strings.CutPrefix(key, "sumdb/")
	_, rest, _ = strings.Cut(rest, "/")
	return ok && strings.HasPrefix(rest, "head/")
}

// sameHead returns other unless source and target have the same signed note at key.
func (c *storeCopy) sameHead(ctx context.Context, key string, other error) error {
	source, err := c.from.Object(ctx, key) // the first one was read
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := c.to.Open(ctx, key)
	if err != nil {
		return err
	}
	defer target.Close()
	var ours, theirs struct{ Note string }
	if json.NewDecoder(source).Decode(&ours) != nil || json.NewDecoder(target).Decode(&theirs) != nil || ours.Note == "" || ours != theirs {
		return other
	}
	return nil
}

// errOther means that an object is not the one of the source.
var errOther = errors.New("the target has another object")

// replace makes an object of the source that of the target.
func (c *storeCopy) replace(ctx context.Context, object admin.Object) error {
	again, err := c.from.Object(ctx, object.Info.Key) // the first one may have been read
	if err != nil {
		return err
	}
	defer again.Close()
	if err := c.to.Replace(ctx, again.Info, again); err != nil {
		return fmt.Errorf("replace %s: %w", again.Info.Key, err)
	}
	return c.same(ctx, again)
}

// check returns the error with which states would end now, or that a purge in the source is under way. It changes
// nothing.
func (c *storeCopy) check(ctx context.Context) error {
	if under, err := c.from.State(ctx, content.PurgingState); err == nil && string(under) != "[]" {
		return errors.New("a purge of FROM is not finished, and the copy would have what it removes; start a server of FROM, which finishes it, or wait, and copy again")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before, err := c.copiedBefore(ctx)
	if err != nil {
		return err
	}
	harmless := func(name string) bool { return localToStore(name) || isAnswer(name) }
	return c.eachState(ctx, harmless, func(name string, value []byte) error {
		there, err := c.to.State(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, storage.ErrDamaged):
			return nil
		case err != nil:
			return err
		}
		return used(name, there, value, before[name])
	})
}

// eachState calls do with each state of the source, but those that omit names.
func (c *storeCopy) eachState(ctx context.Context, omit func(name string) bool, do func(name string, value []byte) error) error {
	for name, err := range c.from.States(ctx) {
		if err != nil {
			return err
		}
		if omit(name) {
			continue
		}
		value, err := c.from.State(ctx, name)
		if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
			continue
		}
		if err != nil {
			return fmt.Errorf("state %s: %w", name, err)
		}
		if err := do(name, value); err != nil {
			return err
		}
	}
	return nil
}

// states copies the states that differ, unless the servers of the target have changed them since the last copy.
func (c *storeCopy) states(ctx context.Context) error {
	before, err := c.copiedBefore(ctx)
	if err != nil {
		return err
	}
	hashes := maps.Clone(before)
	err = c.eachState(ctx, localToStore, func(name string, value []byte) error {
		if name == admin.PurgesState {
			if value = c.record; value == nil {
				return nil // the first purge came after this copy looked: the next one repeats it
			}
		}
		hashes[name] = hashOf(value)
		return c.state(ctx, name, value, before[name])
	})
	if err != nil || len(before) > 0 && maps.Equal(before, hashes) {
		return err
	}
	data, err := json.Marshal(hashes)
	if err == nil {
		err = c.to.SetState(ctx, copiedState, data)
	}
	return err
}

// copiedBefore returns the hashes of the states that earlier copies have copied.
func (c *storeCopy) copiedBefore(ctx context.Context) (map[string]string, error) {
	before := map[string]string{}
	data, err := c.to.State(ctx, copiedState)
	if errors.Is(err, fs.ErrNotExist) {
		return before, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &before)
	}
	return before, err
}

// state copies a state, of which an earlier copy has copied the value with the hash before.
func (c *storeCopy) state(ctx context.Context, name string, value []byte, before string) error {
	there, err := c.to.State(ctx, name)
	switch {
	case errors.Is(err, storage.ErrDamaged):
		err = c.to.SetState(ctx, name, value)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
	case err == nil && bytes.Equal(there, value):
		return nil
	case err == nil && isAnswer(name) && hashOf(there) != before: // that of the target is as good
		return nil
	case err == nil && used(name, there, value, before) != nil:
		return used(name, there, value, before)
	default:
		if there == nil && err == nil {
			there = []byte{} // it is there, and empty
		}
		if err = c.to.SwapState(ctx, name, there, value); errors.Is(err, storage.ErrConflict) {
			return fmt.Errorf("%w: its state %s has changed just now; stop them, and begin with an empty target", errUsed, name)
		}
	}
	if err != nil {
		return err
	}
	c.done.States++
	return nil
}

// used returns an error if a state of the target is neither the value of the source nor the one that an earlier copy has
// copied, which has the hash before.
func used(name string, there, value []byte, before string) error {
	if bytes.Equal(there, value) || hashOf(there) == before {
		return nil
	}
	return fmt.Errorf("%w: its state %s has changed, and is not that of the source; stop them, and begin with an empty target", errUsed, name)
}

// errUsed means that servers have changed the target.
var errUsed = errors.New("servers use the target")

// isAnswer reports whether a state is an answer of an upstream, or notes that upstreams had none.
func isAnswer(name string) bool {
	return strings.HasSuffix(name, "/@v/list") || strings.HasSuffix(name, "/@latest") || strings.HasSuffix(name, ".info") || strings.HasPrefix(name, "absent/")
}

func hashOf(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:16])
}

// sayCopied returns a function that writes the progress of a copy at intervals.
func sayCopied(out io.Writer) func(copied) {
	told := time.Now()
	return func(done copied) {
		if time.Since(told) >= progressEvery {
			told = time.Now()
			fmt.Fprintf(out, "%d objects, %.1f MB copied so far, %d were there\n", done.Objects, float64(done.Bytes)/1e6, done.Held)
		}
	}
}

// sayDamaged writes which objects were not copied, and returns an error if there are any.
func sayDamaged(out io.Writer, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	for _, key := range slices.Sorted(slices.Values(keys)) {
		fmt.Fprintf(out, "damaged, and not copied: %s\n", key)
	}
	return fmt.Errorf("%d objects of the source are damaged, and are not in the target: a server fetches them again, if upstreams still have them", len(keys))
}
