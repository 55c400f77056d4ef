package pinlog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync"

	"golang.org/x/mod/module"

	"github.com/assay-proxy/assay/internal/durable"
	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/sumdb"
)

// entryFile is the file of all entries, one frame after another, and its index. Only the holder of
// the queue appends; all other methods may be called concurrently.
type entryFile struct {
	name    string // of the log
	file    *os.File
	memory  *memory.Budget
	scratch bool   // a copy of entries that are durable elsewhere; it ends with this process
	left    string // the path of a copy that must be removed at the end

	mu    sync.RWMutex // guards index; the holder of the queue reads it without
	index entryIndex   // also of entries that are not signed yet
}

// openEntries opens the file at path, in which index was found. It takes the memory of the index
// even if that exceeds the budget.
func openEntries(name, path string, writable bool, index entryIndex, budget *memory.Budget) (*entryFile, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	file, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	budget.Must(index.tree.size() * entryMemory)
	return &entryFile{name: name, file: file, memory: budget, index: index}, nil
}

// newScratch makes an empty file for entries that are durable elsewhere. It ends with this process.
func newScratch(name, dir string, budget *memory.Budget) (*entryFile, error) {
	file, err := os.CreateTemp(dir, "assay-log-*")
	if err != nil {
		return nil, err
	}
	f := &entryFile{name: name, file: file, memory: budget, scratch: true, index: newEntryIndex()}
	if os.Remove(file.Name()) != nil { // Windows keeps open files
		f.left = file.Name()
	}
	return f, nil
}

// tree returns the tree of all entries. The caller holds the queue.
func (f *entryFile) tree() hashTree { return f.index.tree }

// find returns the number of the entry of mod, which may not be signed yet.
func (f *entryFile) find(mod module.Version) (id int64, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.index.find(mod)
}

// read reads entry id of tree, and compares it with its hash.
func (f *entryFile) read(tree hashTree, id int64) (Entry, error) {
	frame := make([]byte, tree.offsets[id+1]-tree.offsets[id])
	if _, err := f.file.ReadAt(frame, tree.offsets[id]); err != nil {
		return Entry{}, fmt.Errorf("entry %d of the log %s: %w", id, f.name, err)
	}
	e, err := decodeFrame(frame)
	if err == nil {
		err = checkEntry(e, tree, id)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("entry %d of the log %s: %w", id, f.name, err)
	}
	return e, nil
}

// checkEntry compares e with the hash that tree has at id.
func checkEntry(e Entry, tree hashTree, id int64) error {
	if e.ID != id || e.leaf() != tree.leaf(id) {
		return fmt.Errorf("%w: the entry on disk differs from the written one", sumdb.ErrInvalid)
	}
	return nil
}

// scan yields the entries of tree from first to before end.
func (f *entryFile) scan(tree hashTree, first, end int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		from := tree.offsets[first]
		in := bufio.NewReaderSize(io.NewSectionReader(f.file, from, tree.offsets[end]-from), 64<<10)
		for id := first; id < end; id++ {
			e, err := scanEntry(in, tree, id)
			if err != nil {
				yield(Entry{}, fmt.Errorf("entry %d of the log %s: %w", id, f.name, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func scanEntry(in *bufio.Reader, tree hashTree, id int64) (Entry, error) {
	text, err := readFrame(in)
	if err != nil {
		return Entry{}, tornFrame(err)
	}
	e, err := decodeEntry(text)
	if err != nil {
		return Entry{}, err
	}
	return e, checkEntry(e, tree, id)
}

// append writes entries, which are numbered, durably. After an error the file is unchanged, or the
// error is a *durable.UnknownError.
func (f *entryFile) append(entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	var frames []byte
	lengths := make([]int, len(entries))
	for i, e := range entries {
		before := len(frames)
		frames = appendFrame(frames, e.encode())
		lengths[i] = len(frames) - before
	}
	if err := f.write(frames); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, e := range entries {
		if err := f.index.add(e, lengths[i]); err != nil {
			return err
		}
		f.memory.Must(entryMemory)
	}
	return nil
}

// write writes frames after the last entry.
func (f *entryFile) write(frames []byte) error {
	if f.scratch {
		_, err := f.file.WriteAt(frames, f.tree().end())
		return err
	}
	return diskError(durable.Append(f.file, frames, f.tree().end()))
}

// rewrite makes all whole entries durable, and cuts off the bytes after them. It writes the entries
// from number first on once more: if their sync failed in the previous process, the operating
// system assumes that nothing is left to write. After an error that is not a *durable.UnknownError,
// for example a full disk, rewrite can be called again.
func (f *entryFile) rewrite(first int64) error {
	from, end := f.tree().offsets[first], f.tree().end()
	_, err := io.Copy(io.NewOffsetWriter(f.file, from), io.NewSectionReader(f.file, from, end-from))
	if err == nil {
		err = f.cutTail()
	}
	if err != nil {
		return diskError(err)
	}
	return durable.Sync(f.file)
}

// cutTail cuts off the bytes after the last whole entry. It does not touch a file without such
// bytes, because the guard has the time of the last change.
func (f *entryFile) cutTail() error {
	info, err := f.file.Stat()
	if err != nil || info.Size() == f.tree().end() {
		return err
	}
	return f.file.Truncate(f.tree().end())
}

// tail returns the bytes after the last whole entry, nil if there are none.
func (f *entryFile) tail() ([]byte, error) {
	info, err := f.file.Stat()
	end := f.tree().end()
	if err != nil || info.Size() <= end {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f.file, end, info.Size()-end))
}

func (f *entryFile) close() error {
	err := f.file.Close()
	if f.left != "" {
		err = errors.Join(err, os.Remove(f.left))
	}
	return err
}
