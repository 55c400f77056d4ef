package predict

// Clients returns how many clients are remembered.
func (p *Predictor) Clients() int { return len(p.clients) }
