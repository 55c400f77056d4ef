package places

// Leftovers returns the number of holders, clients and claims that are still counted.
func (p *Places) Leftovers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held) + len(p.queued) + len(p.running) + len(p.waiting)
}
