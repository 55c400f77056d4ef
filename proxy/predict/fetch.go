package predict

import "github.com/assay-proxy/assay/proxy/request"

// Fetch is the fetch of a predicted file for a client. It ends with Fetched or NotFetched, one of which must be
// called once. Its methods may be called concurrently.
type Fetch struct {
	p    *Predictor
	name string
	req  request.Request
	file *arriving
}

// Begin begins to fetch a predicted file. It returns nil if the client is forgotten: then nothing that was
// predicted for it must be fetched.
func (p *Predictor) Begin(name string, req request.Request) *Fetch {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[name]
	if c == nil {
		return nil
	}
	return &Fetch{p: p, name: name, req: req, file: c.arrives(req)}
}

// Take takes n bytes for the file, of those that its client may have fetched and unused, and reports whether
// there are as many; otherwise the file must not be fetched. They count until the client requests the file, or
// its fetch has ended, also if the client is forgotten meanwhile. A file of at most MaxMod bytes that is no zip
// counts, too, and is never refused.
func (f *Fetch) Take(n int64) bool {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	return f.file.take(&f.p.tally, n)
}

// Fetched says that the file was fetched, and has a size in bytes. A file of which not all bytes were taken was
// fetched for another client, which has requested it meanwhile.
func (f *Fetch) Fetched(size int64) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	c, t := f.file.client, &f.p.tally
	whole := f.file.taken >= size || f.file.requested
	f.file.ended(t)
	if !whole {
		c.notFetched(f.req, Held)
		return
	}
	count := &t.stats[f.req.Kind]
	count.Predicted++
	count.PredictedBytes += size
	if f.p.clients[f.name] != c { // it was forgotten meanwhile
		count.waste(size)
		return
	}
	c.fetched(t, f.req, size)
}

// NotFetched says that the file was not fetched. If Take has refused it and would take it when its client has
// fewer bytes, or others have, that is NotNow whatever why says.
func (f *Fetch) NotFetched(why Reason) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if f.file.refused {
		why = NotNow
	}
	f.file.ended(&f.p.tally)
	f.file.client.notFetched(f.req, why)
}
