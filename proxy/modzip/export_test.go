package modzip

// Inflate unpacks a small content.
func Inflate(dst, src []byte) bool { return newInflater().inflate(dst, src) }

// Counted reports whether HashAhead used what a had hashed.
func Counted(a *Ahead) bool { return a.counts }
