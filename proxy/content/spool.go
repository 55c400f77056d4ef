package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// spool is a temporary file that grows while other goroutines read it. It is removed when
// its last user has released it.
type spool struct {
	file *os.File

	mu    sync.Mutex
	size  int64         // bytes that can be read
	more  chan struct{} // closed and replaced when size grows
	users int
}

// spoolPattern matches the files of spools, and no other file in their directory.
const spoolPattern = "fill-*.part"

// clearSpool makes dir and removes the files that a killed process left there.
func clearSpool(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("spool directory: %w", err)
	}
	entries, err := os.ReadDir(dir) // not filepath.Glob: the directory's name may have wildcards
	if err != nil {
		return fmt.Errorf("spool directory: %w", err)
	}
	for _, entry := range entries {
		if left, err := filepath.Match(spoolPattern, entry.Name()); err != nil || !left {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("spool directory: %w", err)
		}
	}
	return nil
}

// newSpool returns an empty spool with one user.
func newSpool(dir string) (*spool, error) {
	file, err := createSpool(dir)
	if err != nil {
		return nil, err
	}
	return &spool{file: file, more: make(chan struct{}), users: 1}, nil
}

// createSpool makes an empty file in the directory of spools. It makes the directory
// again if another program has removed it.
func createSpool(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, spoolPattern)
	if errors.Is(err, fs.ErrNotExist) && os.MkdirAll(dir, 0o700) == nil {
		file, err = os.CreateTemp(dir, spoolPattern)
	}
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return file, nil
}

// Write appends p. Only one goroutine writes.
func (s *spool) Write(p []byte) (int, error) {
	n, err := s.file.Write(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += int64(n)
	close(s.more)
	s.more = make(chan struct{})
	return n, err
}

// readable returns how many bytes can be read, and a channel that is closed when
// there are more.
func (s *spool) readable() (int64, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size, s.more
}

// wait returns how many bytes can be read as soon as there are more than n. It
// returns early when done is closed or ctx ends; the error is then ctx's.
func (s *spool) wait(ctx context.Context, n int64, done <-chan struct{}) (int64, error) {
	for {
		size, more := s.readable()
		if size > n {
			return size, nil
		}
		select {
		case <-more:
		case <-done:
			size, _ = s.readable()
			return size, nil
		case <-ctx.Done():
			return size, ctx.Err()
		}
	}
}

// acquire adds a user, and reports whether the spool still exists.
func (s *spool) acquire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return false
	}
	s.users++
	return true
}

// release removes a user; the last one removes the file.
func (s *spool) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		_ = s.file.Close()           // its content is no longer needed
		_ = os.Remove(s.file.Name()) // the next start removes a remaining file
	}
}
