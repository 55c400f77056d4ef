package predict

// Clients returns how many clients are remembered.
func (p *Predictor) Clients() int { return len(p.clients) }

// Entries returns how much is remembered of all clients.
func (p *Predictor) Entries() int { return p.entries }
