package modzip

// NewInflate returns a function that unpacks small contents, one after the other.
func NewInflate() func(dst, src []byte) bool { return newInflater().inflate }

// Counted reports whether HashAhead used what a had hashed: otherwise it has closed a.
func Counted(a *Ahead) bool { return a.batch.file != nil }
