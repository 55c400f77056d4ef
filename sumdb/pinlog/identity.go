package pinlog

// identity distinguishes a file from a copy of it. A zero field is one that the operating system
// does not provide. Times are nanoseconds of Unix time.
type identity struct {
	inode uint64
	born  int64

	// changed is when the content, owner, mode or links of the file changed. It does not
	// distinguish files.
	changed int64
}

// differs reports whether a and b are certainly two files.
func (a identity) differs(b identity) bool {
	return a.inode != 0 && b.inode != 0 && a.inode != b.inode ||
		a.born != 0 && b.born != 0 && a.born != b.born
}
