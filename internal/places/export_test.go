package places

// Leftovers returns how many holders, clients and claims are still counted.
func (p *Places) Leftovers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held) + len(p.queued) + len(p.running) + len(p.waiting)
}
