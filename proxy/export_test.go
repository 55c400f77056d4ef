package proxy

import (
	"context"
	"os"
)

// HashZip is hashZip.
func HashZip(ctx context.Context, file *os.File) (string, error) { return hashZip(ctx, file) }

// CleanList is cleanList.
func CleanList(modulePath string, data []byte) ([]byte, error) { return cleanList(modulePath, data) }

// ErrorText returns the text that a client reads.
func ErrorText(what, why, next, requestID string) string {
	return failure{what: what, why: why, next: next}.text(requestID)
}
