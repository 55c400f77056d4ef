package pinlog

import "github.com/assay-proxy/assay/storage"

// Dependents are small objects that must not be in the store before an entry is on disk: the files of
// its version.
type Dependents struct {
	// Permit is called right before the objects are stored; after an error they are not. It must not
	// wait. Nil permits.
	Permit func() error

	// Stored is called after an attempt to store the objects, which may have failed, and before their
	// entries are shown: also when the call of PinWith has ended with its context. It must not wait. Nil is
	// no call.
	Stored func()

	Objects []storage.Small // all of at most storage.MaxBatch bytes
}

// size returns the number of bytes of all objects.
func (d Dependents) size() (n int) {
	for _, o := range d.Objects {
		n += len(o.Content)
	}
	return n
}

// noteStored tells the caller of PinWith that the objects may be stored by now.
func (d Dependents) noteStored() {
	if d.Stored != nil {
		d.Stored()
	}
}

// permitted reports whether there are objects to store, and they may be stored.
func (d Dependents) permitted() bool {
	return len(d.Objects) > 0 && (d.Permit == nil || d.Permit() == nil)
}
