package budget

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// TooSmallError says that a limit cannot hold what is never evicted.
type TooSmallError struct {
	Limit, Enough int64 // bytes
	Parts         []Part
}

// Part is a part of what is never evicted.
type Part struct {
	Name  string
	Bytes int64
}

func (e *TooSmallError) Error() string {
	var parts []string
	total := int64(0)
	for _, p := range e.Parts {
		parts = append(parts, Size(p.Bytes)+" for "+p.Name)
		total += p.Bytes
	}
	return fmt.Sprintf("a disk limit of %s is too small: %s are needed for what is never evicted (%s); %s are enough",
		Size(e.Limit), Size(total), strings.Join(parts, ", "), Size(e.Enough))
}

// Size returns a number of bytes as text, in MiB, rounded up to a tenth.
func Size(n int64) string {
	tenths := (n*10 + 1<<20 - 1) >> 20
	return fmt.Sprintf("%d.%d MiB", tenths/10, tenths%10)
}

// checkLimit returns a *TooSmallError if there would be no room for objects that may be evicted.
func checkLimit(d *disk, x *index, limit int64) error {
	u, err := d.use()
	if err != nil {
		return err
	}
	x.mu.Lock()
	small, keptFile := x.small, x.keptFile
	x.mu.Unlock()
	r := newRoom(d, limit)
	parts := []Part{
		{"records, tiles and small files (meta.db)", max(u.Allocated-u.Large-u.Reusable-small, 0)},
		{"large files that are kept (blobs.db)", keptFile},
		{"their growth and what is being written", r.reserve() + margin + r.slack() + leastRoom},
	}
	for name, bytes := range d.parts() {
		if name == "." {
			name = "the directory"
		}
		parts = append(parts, Part{name, bytes})
	}
	slices.SortStableFunc(parts, func(a, b Part) int { return cmp.Compare(b.Bytes, a.Bytes) })
	needed := int64(0)
	for _, p := range parts {
		needed += p.Bytes
	}
	if needed <= limit {
		return nil
	}
	parts = slices.DeleteFunc(parts, func(p Part) bool { return p.Bytes < needed/100 })
	enough := (needed + needed/10 + 1<<20) >> 20 << 20 // the reserve grows with the limit
	return &TooSmallError{limit, enough, parts}
}
