package panics_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/internal/panics"
)

func TestCatch(t *testing.T) {
	if err := panics.Catch(func() error { return nil }); err != nil {
		t.Errorf("nil became %v", err)
	}
	if err := panics.Catch(func() error { return io.EOF }); err != io.EOF {
		t.Errorf("io.EOF became %v", err)
	}
	var d *panics.Error
	if err := fmt.Errorf("wrapped: %w", panics.Catch(broken)); !errors.As(err, &d) {
		t.Fatalf("a panic became %v", err)
	}
	first, stack, _ := strings.Cut(d.Error(), "\n")
	if !strings.Contains(first, "out of range") || !strings.Contains(stack, "panics_test.broken") {
		t.Errorf("want what and where:\n%v", d)
	}
}

func broken() error {
	var none []int
	return fmt.Errorf("%d", none[len(none)])
}
