package pinlog

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/assay-proxy/assay/sumdb"
)

// refusal is the reason why a log signs nothing new. It is a sumdb.ErrFrozen with its own text.
type refusal struct {
	text      string
	err       error
	adoptable bool // Adopt needs nothing but the word of the administrator
}

func (r *refusal) Error() string   { return r.text }
func (r *refusal) Unwrap() []error { return []error{sumdb.ErrFrozen, r.err} }

// frozen returns a refusal with the text of a fmt.Errorf.
func frozen(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &refusal{text: err.Error(), err: err}
}

// refusals keeps the first reason why a log signs nothing new, until it is opened again. A reason that
// cannot be lifted replaces one that can.
type refusals struct {
	name  string // of the log
	adopt string // the command that calls Adopt

	mu    sync.RWMutex
	first error
}

// reason returns why the log signs nothing new, nil if it does.
func (r *refusals) reason() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.first
}

// adoptable reports whether why is a refusal that ends with the word of the administrator.
func adoptable(why error) bool {
	var r *refusal
	return errors.As(why, &r) && r.adoptable
}

// begin makes the log refuse because of why. It reports whether the log did not refuse before, or did so
// for a reason that its administrator could have lifted, which why contradicts.
func (r *refusals) begin(why error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first != nil && (!adoptable(r.first) || adoptable(why)) {
		return false
	}
	r.first = why
	return true
}

// contradicted returns the refusal of a log whose files contradict what it may have signed. newest
// means that the administrator's confirmation is enough to adopt it.
func (r *refusals) contradicted(why error, newest bool) error {
	var restored string
	if newest {
		restored = fmt.Sprintf("if this is the newest backup, put back after the loss of a machine, and no client has seen a newer head, "+
			"stop the server, run this, and start it again: %s --no-client-has-seen-more; otherwise ", r.adopt)
	}
	text := fmt.Sprintf("the log %s signs nothing new, because it may have signed something else before: %s; "+
		"%sfind the newest signed head that a client has seen (in $GOPATH/pkg/sumdb/%s/latest) and a copy of the log that contains it, "+
		"stop the server and run: %s --head FILE; if there is no such copy, begin a new log under a new name",
		r.name, oneLine(why), restored, r.name, r.adopt)
	return &refusal{text, why, newest}
}

// errContradicts means that a bucket does not have what was seen in it.
var errContradicts = errors.New("the bucket was set back, or is another one")

// setBack returns the refusal of a log whose bucket does not have what was seen. dir is where the log is in
// the bucket.
func (r *refusals) setBack(why error, dir string) error {
	return frozen("the log %s signs nothing new on any replica: %w; what was signed before must not be contradicted. "+
		"Put back the newest state of the bucket, with every batch below %s, and restart the replicas; "+
		"if there is none, begin a new log under a new name, with a new key", r.name, why, dir)
}

// unvouched returns the refusal of a log in a bucket that the administrator can lift with a word.
func (r *refusals) unvouched(why, remedy string) error {
	text := fmt.Sprintf("the log %s signs nothing new, because it may have signed something else before: %s; %s", r.name, why, remedy)
	return &refusal{text, errors.New(why), true}
}

// diskFailed returns the refusal of a log that does not know what is on disk.
func (r *refusals) diskFailed(why error) error {
	return &refusal{fmt.Sprintf("the log %s signs nothing new after an error of the disk: %v; check the disk, then restart", r.name, why), why, false}
}

// oneLine returns the text of an error, which may be a joined one, on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
