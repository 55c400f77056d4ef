package main

import (
	"errors"
	"fmt"
	"os"
)

// host is the part of testing.TB that the packages of test servers need.
type host struct {
	dir   string
	ended []func()
}

// failed is the panic of a host that cannot continue.
type failed struct{ error }

func (h *host) Helper()                           {}
func (h *host) Errorf(format string, args ...any) { h.Fatalf(format, args...) }
func (h *host) Error(args ...any)                 { panic(failed{errors.New(fmt.Sprint(args...))}) }
func (h *host) Fatal(args ...any)                 { panic(failed{errors.New(fmt.Sprint(args...))}) }
func (h *host) Fatalf(format string, args ...any) { panic(failed{fmt.Errorf(format, args...)}) }
func (h *host) Skip(args ...any)                  { h.Fatal(args...) }
func (h *host) Cleanup(f func())                  { h.ended = append(h.ended, f) }

func (h *host) TempDir() string {
	dir, err := os.MkdirTemp(h.dir, "host-")
	if err != nil {
		h.Fatal(err)
	}
	return dir
}

func (h *host) end() {
	for _, f := range h.ended {
		f()
	}
}
