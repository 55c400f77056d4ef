package config

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strings"
)

// Size is a number of bytes.
type Size int64

// sizePattern matches what ParseSize accepts.
const sizePattern = `^[0-9]+(\.[0-9]+)? ?([KMGTkmgt]?[iI]?[bB])?$`

// units are the units of a size, in bytes.
func units() map[string]int64 {
	return map[string]int64{
		"": 1 << 20, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}
}

// ParseSize returns the size that text means: a number and a unit, like 200MB, 1.5GiB or 10 TB. A number alone is
// in MiB, as in other settings.
func ParseSize(text string) (Size, error) {
	wrong := fmt.Errorf("%q is not a size like 200MB, 1.5GiB or 10TB; a number alone is in MiB", text)
	if !regexp.MustCompile(sizePattern).MatchString(text) {
		return 0, wrong
	}
	end := strings.LastIndexAny(text, "0123456789") + 1
	unit, ok := units()[strings.ToLower(strings.TrimSpace(text[end:]))]
	number, isNumber := new(big.Rat).SetString(text[:end])
	if !ok || !isNumber {
		return 0, wrong
	}
	bytes, _ := new(big.Rat).Mul(number, new(big.Rat).SetInt64(unit)).Float64()
	if bytes > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is more than any disk has", text)
	}
	return Size(bytes), nil
}

// String returns the size with the largest unit in which it is a whole number.
func (s Size) String() string {
	for _, unit := range []string{"TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "KB"} {
		if n := int64(s); n != 0 && n%units()[strings.ToLower(unit)] == 0 {
			return fmt.Sprint(n/units()[strings.ToLower(unit)], unit)
		}
	}
	if s == 0 {
		return "0"
	}
	return fmt.Sprint(int64(s), "B")
}
