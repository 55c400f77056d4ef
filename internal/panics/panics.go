// Package panics keeps a panic in one of our goroutines from ending the program.
//
// net/http recovers panics of handlers, but not of goroutines that handlers start and
// share. These read data from outside, and no such data may end the program.
package panics

import (
	"fmt"
	"runtime/debug"
)

// Error is a panic on its way to the callers that wait for the work.
type Error struct {
	Value any    // of the panic
	Stack []byte // of the goroutine
}

// Error returns one line, and below it the stack, so that both are logged.
func (e *Error) Error() string {
	return fmt.Sprintf("a defect of this program, please report it: %v\n%s", e.Value, e.Stack)
}

// Catch returns the error of do, or an *Error if do panics.
func Catch(do func() error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = &Error{panicked, debug.Stack()}
		}
	}()
	return do()
}
