// Package text shortens text from outside for logs, errors and file names.
package text

import "strings"

// Clip cuts s to at most n bytes, between runes.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

// Line makes s one line of limited length.
func Line(s string) string {
	return Clip(strings.Join(strings.Fields(s), " "), 260)
}
