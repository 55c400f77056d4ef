package storage

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxKey  = 4096
	maxText = 1 << 10 // of Hash and of Proof

	// MaxRecord is the size of the largest mutable record.
	MaxRecord = 16 << 20
)

// CheckKey checks a key, or the name of a mutable record, as Store documents.
func CheckKey(key string) error {
	var why string
	switch {
	case key == "":
		why = "is empty"
	case len(key) > maxKey:
		why = "is longer than 4096 bytes"
	case !utf8.ValidString(key):
		why = "is not UTF-8"
	case strings.IndexByte(key, 0) >= 0:
		why = "contains NUL"
	case key[0] == '/', key[len(key)-1] == '/':
		why = "begins or ends with a slash"
	default:
		return nil
	}
	return fmt.Errorf("key %.100q %s", key, why)
}

// Check checks what a caller of Create says about an object.
func (i Info) Check() error {
	if err := CheckKey(i.Key); err != nil {
		return err
	}
	switch {
	case i.Size < 0:
		return fmt.Errorf("size %d is negative", i.Size)
	case len(i.Hash) > maxText:
		return fmt.Errorf("hash of %d bytes is longer than %d", len(i.Hash), maxText)
	case len(i.Proof) > maxText:
		return fmt.Errorf("proof of %d bytes is longer than %d", len(i.Proof), maxText)
	}
	return nil
}
