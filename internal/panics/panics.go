// Package panics keeps a panic in a goroutine of our own from ending the program.
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

// Error returns one line, and below it the stack, so that a log has both.
func (e *Error) Error() string {
	return fmt.Sprintf("a defect of this program, please report it: %v\n%s", e.Value, e.Stack)
}

// Catch returns what do returns, or an *Error if it panics.
func Catch(do func() error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = &Error{panicked, debug.Stack()}
		}
	}()
	return do()
}
