package sumdbtest

import (
	"bytes"
	"errors"
	"io/fs"
	"sync"

	"golang.org/x/mod/sumdb"
)

// Client is what a go command keeps of a checksum database, and asks it for: the
// sumdb.ClientOps of x/mod, for any number of sumdb.Clients, one after the other or
// at the same time.
type Client struct {
	Key    func() string                     // of the database
	Remote func(path string) ([]byte, error) // asks it; path begins with a slash
	Cached bool                              // what was answered once is not asked for again

	// Seen is the newest head that it has accepted, empty at first. It is for before
	// and after the use.
	Seen []byte

	mu     sync.Mutex // guards what follows, and Seen
	cache  map[string][]byte
	broken error
}

// ReadRemote asks the database.
func (c *Client) ReadRemote(path string) ([]byte, error) { return c.Remote(path) }

// ReadConfig returns the key or the newest head.
func (c *Client) ReadConfig(file string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if file == "key" {
		return []byte(c.Key()), nil
	}
	return c.Seen, nil
}

// WriteConfig takes another head. The error is sumdb.ErrWriteConflict if old is not
// the one that it has.
func (c *Client) WriteConfig(_ string, old, new []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !bytes.Equal(c.Seen, old) {
		return sumdb.ErrWriteConflict
	}
	c.Seen = new
	return nil
}

// ReadCache returns what was answered before, or fs.ErrNotExist.
func (c *Client) ReadCache(file string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if data, ok := c.cache[file]; ok {
		return data, nil
	}
	return nil, fs.ErrNotExist
}

// WriteCache keeps an answer if c is Cached.
func (c *Client) WriteCache(file string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache == nil {
		c.cache = map[string][]byte{}
	}
	if c.Cached {
		c.cache[file] = data
	}
}

// Log does nothing.
func (c *Client) Log(string) {}

// SecurityError notes that the database contradicts itself.
func (c *Client) SecurityError(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = errors.Join(c.broken, errors.New(text))
}

// Broken returns the security errors that there were.
func (c *Client) Broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}
