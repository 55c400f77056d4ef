package modzip

// NewInflate returns a function that unpacks small contents, one after the other.
func NewInflate() func(dst, src []byte) bool { return newInflater().inflate }

// Counted reports whether HashAhead used what a had hashed.
func Counted(a *Ahead) bool { return a.counts }
