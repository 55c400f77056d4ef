package pinlog

import "github.com/assay-proxy/assay/storage"

// Dependents are small objects that must not be in the store before an entry is on disk: the files of
// its version.
type Dependents struct {
	// Permit is called right before the objects are stored; after an error they are not. It must not
	// wait. Nil permits.
	Permit func() error

	Objects []storage.Small // all of at most storage.MaxBatch bytes
}

// size returns the number of bytes of all objects.
func (d Dependents) size() (n int) {
	for _, o := range d.Objects {
		n += len(o.Content)
	}
	return n
}

// permitted reports whether there are objects to store, and they may be stored.
func (d Dependents) permitted() bool {
	return len(d.Objects) > 0 && (d.Permit == nil || d.Permit() == nil)
}
