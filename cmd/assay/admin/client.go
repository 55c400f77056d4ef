package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/assay-proxy/assay/proxy/content"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/budget"
)

// Client sends requests to a Server.
type Client struct {
	// Waits is called when a backup or a compaction waits for another one: "a backup" or "a
	// compaction". It may be nil.
	Waits func(running string)

	http  *http.Client
	close func() error
}

func newClient(dial func(context.Context) (net.Conn, error), end func() error) *Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	return &Client{http: &http.Client{Transport: transport}, close: func() error {
		transport.CloseIdleConnections()
		return end()
	}}
}

// Local returns a client of s in this process.
func Local(s *Server) *Client {
	listener := &pipes{connections: make(chan net.Conn), closed: make(chan struct{})}
	server := newHTTPServer(s)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // until it is closed
	}()
	return newClient(listener.dial, func() error {
		err := server.Close()
		<-ended
		return err
	})
}

// pipes is a listener for connections from this process.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
	once        sync.Once
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.connections <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// Close releases the connection.
func (c *Client) Close() error { return c.close() }

// do sends a request. If the server responds with an error, do returns its text as the error.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var sent io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		sent = bytes.NewReader(data)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
		if running := header.Get(waitsHeader); running != "" && c.Waits != nil {
			c.Waits(running)
		}
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, method, "http://assay"+path, sent)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return nil, err
		}
		return nil, &answeredError{strings.TrimSpace(string(text)), resp.StatusCode}
	}
	return resp, nil
}

// call sends a request, and decodes the response.
func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(answer)
}

// Place returns where the store of the server is: Server.Place.
func (c *Client) Place(ctx context.Context) (place string, err error) {
	err = c.call(ctx, http.MethodGet, "/place", nil, &place)
	return place, err
}

// Backup returns a backup as an archive. Reading an incomplete one fails.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/backup", nil)
	if err != nil {
		return nil, err
	}
	return &body{resp}, nil
}

// Items yields the objects of the store, or only those of a module and of the modules below it if
// modulePath is not "".
func (c *Client) Items(ctx context.Context, modulePath string) iter.Seq2[content.Item, error] {
	return func(yield func(content.Item, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, "/items?"+url.Values{"module": {modulePath}}.Encode(), nil)
		if err != nil {
			yield(content.Item{}, err)
			return
		}
		defer resp.Body.Close()
		decoder := json.NewDecoder(&body{resp})
		for {
			var item content.Item
			err := decoder.Decode(&item)
			if err == io.EOF || !yield(item, err) || err != nil {
				return
			}
		}
	}
}

// Purge removes stored files, and returns what it has removed.
func (c *Client) Purge(ctx context.Context, order Purge) (done Purge, err error) {
	err = c.call(ctx, http.MethodPost, "/purge", order, &done)
	return done, err
}

// Purges returns the purges that the store remembers, the oldest first.
func (c *Client) Purges(ctx context.Context) (all []Purge, err error) {
	resp, err := c.do(ctx, http.MethodGet, "/purges", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for decoder := json.NewDecoder(resp.Body); ; {
		var p Purge
		if err := decoder.Decode(&p); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}

// Thaw clears the evidence of forks of a checksum database, and returns what it has cleared.
func (c *Client) Thaw(ctx context.Context, order Thaw) (done Thaw, err error) {
	err = c.call(ctx, http.MethodPost, "/thaw", order, &done)
	return done, err
}

// Collect deletes from the bucket what nothing refers to, in several calls with at least wait between them.
func (c *Client) Collect(ctx context.Context, wait time.Duration) (done Collected, err error) {
	err = c.call(ctx, http.MethodPost, "/collect", wait, &done)
	return done, err
}

// Compact returns free space to the disk, and returns its number of bytes.
func (c *Client) Compact(ctx context.Context) (freed int64, err error) {
	err = c.call(ctx, http.MethodPost, "/compact", nil, &freed)
	return freed, err
}

// Keys yields the keys of all objects, in lexical order.
func (c *Client) Keys(ctx context.Context) iter.Seq2[string, error] { return c.names(ctx, "/keys") }

// States yields the names of all states, in lexical order.
func (c *Client) States(ctx context.Context) iter.Seq2[string, error] { return c.names(ctx, "/states") }

func (c *Client) names(ctx context.Context, path string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, path, nil)
		if err != nil {
			yield("", err)
			return
		}
		defer resp.Body.Close()
		names(resp, yield)
	}
}

// Object opens an object. The errors are fs.ErrNotExist and storage.ErrDamaged, and others.
func (c *Client) Object(ctx context.Context, key string) (Object, error) {
	resp, err := c.do(ctx, http.MethodGet, "/object?"+url.Values{"key": {key}}.Encode(), nil)
	if err != nil {
		return Object{}, err
	}
	o, err := object(resp)
	if err != nil {
		return Object{}, errors.Join(err, resp.Body.Close())
	}
	return o, nil
}

// State returns the value of a state. The errors are those of Object.
func (c *Client) State(ctx context.Context, name string) ([]byte, error) {
	resp, err := c.do(ctx, http.MethodGet, "/state?"+url.Values{"name": {name}}.Encode(), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	value, err := io.ReadAll(io.LimitReader(resp.Body, storage.MaxState+1))
	if err == nil && len(value) > storage.MaxState {
		err = fmt.Errorf("state %.200q is larger than 16 MiB", name)
	}
	return value, err
}

// Keep keeps the stored zips of a module or a version, or keeps them no longer.
func (c *Client) Keep(ctx context.Context, order Keep) error {
	return c.call(ctx, http.MethodPost, "/keep", order, &order)
}

// Keeps returns what is kept, the oldest order first.
func (c *Client) Keeps(ctx context.Context) (all []content.Keep, err error) {
	err = c.call(ctx, http.MethodGet, "/keeps", nil, &all)
	return all, err
}

// Limit returns how the limit of the disk is used. The error says so if there is none.
func (c *Client) Limit(ctx context.Context) (report budget.Report, err error) {
	err = c.call(ctx, http.MethodGet, "/limit", nil, &report)
	return report, err
}
