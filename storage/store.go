// Package storage is the contract of a store, which keeps immutable objects under protocol-path
// keys, and a few small mutable states. Engines are separate packages; storagetest checks the
// contract for each.
//
// A key is a path of the GOPROXY protocol (go.dev/ref/mod#goproxy-protocol), escaped and without a
// leading slash, below a prefix that names what vouches for the object, see Voucher:
// proved/sum.golang.org/example.com/!a/@v/v1.0.0.zip, sumdb/sum.golang.org/tile/8/0/x001/234. The
// keys are readable in every engine.
//
// A store knows nothing about modules: its callers decide what may be stored, and whether it is
// proved. The store promises that an object is complete and durable or absent, that it never
// changes, and that it never returns bytes that changed on disk.
package storage

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that callers distinguish. Absence is fs.ErrNotExist, a taken key is fs.ErrExist.
var (
	// ErrDamaged means that stored bytes have changed. The caller should Delete the object and
	// fetch it again.
	ErrDamaged = errors.New("stored bytes are damaged")

	// ErrConflict means that another writer changed a state.
	ErrConflict = errors.New("state changed meanwhile")

	// ErrInUse means that another process has the store open.
	ErrInUse = errors.New("store is in use by another process")

	// ErrForeign means that the files are not a store of this program.
	ErrForeign = errors.New("not a store of this program")

	// ErrNewer means that a newer version of the program created the store.
	ErrNewer = errors.New("store was made by a newer version")

	// ErrReadOnly means that the store is open read-only.
	ErrReadOnly = errors.New("store is open for reading only")

	// ErrUnwritable means that nothing can be stored now, not even a small object: the disk of the store is
	// full or read-only, or the store has reached its limit. It is no error of one object, such as one that
	// is larger than what is left below the limit.
	ErrUnwritable = errors.New("nothing can be stored now")

	// ErrNoLarge means that no large object can be stored now: there is no room for its next part below the limit
	// of the store. What has arrived of others takes room, too. Small objects can be stored, unless the error is
	// ErrUnwritable.
	ErrNoLarge = errors.New("no large object can be stored now")

	// ErrAway means that the object store in which a bucket is does not answer, is too busy, or refuses every
	// request. It says nothing about an object, and passes, or an administrator must act.
	ErrAway = errors.New("the object store cannot be used now")

	// ErrNotKept means that Draft.Commit has not stored the content, although nothing is wrong with it: a store
	// with a limit has no room for it, or has objects that are worth more. The draft can be read until Close, so
	// the content can be passed on.
	ErrNotKept = errors.New("content is not kept")

	// ErrOlder means that objects have the keys of an earlier version of the program.
	ErrOlder = errors.New("store has the keys of an earlier version, or they are being moved")
)

// Info describes an object.
type Info struct {
	Key  string
	Size int64 // bytes

	// Hash is the hash of the content in the caller's terms, for example
	// "h1:…" of a zip. It is stored, not checked. At most 1 KiB.
	Hash string

	// Proof names the log that proves Hash, for example a checksum database;
	// empty if Hash is unproved. At most 1 KiB.
	Proof string

	Time time.Time // of creation, to the second; set by the store if zero
}

// Object is an open object. It may be used by one goroutine at a time.
//
// Read, WriteTo and Seek check all bytes: if bytes changed on disk, the error is
// ErrDamaged. An Object stays readable until Close even if its key is deleted
// meanwhile.
type Object interface {
	io.Reader
	io.Seeker
	io.Closer
	io.WriterTo // from the current position to the end, in writes as large as is cheap

	Info() Info

	// SHA256 returns the hash of the whole content, as it was stored. It needs a pass over the
	// content only if that is small and in memory.
	SHA256() [sha256.Size]byte
}

// Draft is a content that has no key yet. It is written by one goroutine, and can be read by any
// number of others from its first byte on, also while it is written. No method of Store sees it
// before Commit, and none after a crash.
type Draft interface {
	// Write appends p. It waits for memory and for the disk as long as the context of Store.Draft
	// permits. After an error nothing can be added, and Commit fails.
	io.Writer

	// ReadAt reads what was written so far, and checks all bytes as an Object does; the error is
	// io.EOF at the end of that. It may be called until Close, also after Commit, by several
	// goroutines.
	io.ReaderAt

	// Commit stores the content, which must have exactly info.Size bytes, under info.Key, as Create
	// does. It can be called once, after the last Write. The error is ErrNotKept if a store with a limit
	// does not keep the content.
	Commit(ctx context.Context, info Info) error

	// Close ends the use of the draft, and deletes what was not committed. It waits for no reader:
	// a ReadAt afterwards is fs.ErrClosed.
	io.Closer
}

// Batch is an argument of Store.Apply, which creates the objects in their order, and
// then swaps the state.
type Batch struct {
	Create []Small
	Swap   *Swap // nil: none

	// SwapFirst makes the swap the first step, not the last: it permits the objects.
	SwapFirst bool
}

// Small is an object of at most MaxSmall bytes. The size is that of Content; Info.Size
// is ignored.
type Small struct {
	Info    Info
	Content []byte
}

// Swap is a SwapState of a Batch.
type Swap struct {
	Name     string
	Old, New []byte
}

// Store is the contract of every engine; storagetest checks it. All methods may be called
// concurrently.
type Store interface {
	// Create stores the content of r, which must have exactly info.Size bytes,
	// under info.Key. After nil the object is durable and visible. After an
	// error no part of it is ever visible.
	//
	// If the key exists, the error is fs.ErrExist and the stored object stays
	// as it is; the loser of a race then reads the winner's bytes. An r that
	// is shorter or longer than info.Size is an error.
	//
	// A key is one that CheckKey accepts: 1 to 896 bytes of UTF-8 without NUL, whose
	// components between the slashes have 1 to 255 bytes and are not "." or "..". Key
	// makes one of a path that is too long. No key is a directory of another, as a is
	// of a/b: an engine need not notice, and callers have no such keys.
	Create(ctx context.Context, info Info, r io.Reader) error

	// Draft returns an empty Draft, for a content that arrives over time. Its size is the number of
	// bytes that Commit will store, or -1 if it is not known yet; a Write beyond it is an error. The
	// context applies to all calls of Write. The caller must close the draft.
	//
	// A content whose bytes cannot be read by others before it is complete, as in a bucket, is
	// kept in a local file until Commit.
	Draft(ctx context.Context, size int64) (Draft, error)

	// Replace is Create for a key that may exist: it replaces the old object atomically. Every Open
	// returns either the old object or the new one, and an Object of the old one stays readable
	// until its Close.
	Replace(ctx context.Context, info Info, r io.Reader) error

	// Open opens the object at key. The error is fs.ErrNotExist if there is none, and ErrDamaged if
	// it is already known to be damaged.
	Open(ctx context.Context, key string) (Object, error)

	// Stat is Open without the content.
	Stat(ctx context.Context, key string) (Info, error)

	// Delete removes the object at key. The error is fs.ErrNotExist if there
	// is none. A damaged object can be deleted.
	Delete(ctx context.Context, key string) error

	// Move gives the object at the key from the key to and another Proof, without
	// copying its content; from is then absent. All else of its Info stays. The error
	// is fs.ErrNotExist if there is no object at from, and fs.ErrExist if the key to is
	// taken, by itself too. An Object stays readable until its Close. A crash may leave
	// the object under both keys, never under none.
	Move(ctx context.Context, from, to, proof string) error

	// Apply applies the batch. When it returns nil all of it is durable and visible.
	//
	// An existing object with the same content, Hash and Proof counts as created, so that a batch
	// can be applied again after a crash. If another object has the key, the error is fs.ErrExist,
	// and if the state has another value than expected, ErrConflict.
	//
	// After an error, and after a crash, a prefix of the steps of the batch may be visible: an
	// engine with transactions does all or nothing, one without does one step after the other. A
	// reader that sees the last step sees all steps.
	Apply(ctx context.Context, b Batch) error

	// List yields the objects whose key begins with prefix, in lexical order
	// of their keys. It sees every object that existed during the whole call.
	// It omits objects whose Info is damaged. After an error it ends.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Keys yields the keys of List. It costs less where a store must open an object for its Info: in a
	// bucket. The keys of objects whose Info is damaged may be among them.
	Keys(ctx context.Context, prefix string) iter.Seq2[string, error]

	// State returns the value of the state name, or fs.ErrNotExist.
	// States have a namespace of their own. The caller owns the value.
	State(ctx context.Context, name string) ([]byte, error)

	// SetState sets the value of the state name. The value is durable after
	// nil. A value has at most 16 MiB.
	SetState(ctx context.Context, name string, value []byte) error

	// SwapState is SetState if the state's value is old, where nil stands
	// for a state that does not exist; otherwise the error is ErrConflict.
	SwapState(ctx context.Context, name string, old, value []byte) error

	// DeleteState removes the state name, or returns fs.ErrNotExist.
	DeleteState(ctx context.Context, name string) error

	// Close releases the store. Operations on objects that are still open fail afterwards.
	Close() error
}
