package modzip

// Inflate unpacks a small content.
func Inflate(dst, src []byte) bool { return newInflater().inflate(dst, src) }
