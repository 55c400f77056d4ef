package vcs

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// writeRoots writes a file with the system's authorities and those of caFile for git,
// which reads one file. It returns its name, "" if git's default is enough. SSL_CERT_FILE
// has its meaning for git, too, which does not know the variable; a file that does not
// exist is ignored, as by this program.
func writeRoots(dir, caFile string) (string, error) {
	if _, err := os.Stat(os.Getenv("SSL_CERT_FILE")); caFile == "" && err != nil {
		return "", nil
	}
	var own []byte
	if caFile != "" {
		var err error
		if own, err = os.ReadFile(caFile); err != nil {
			return "", fmt.Errorf("certificate authorities: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("directory for version control: %w", err)
	}
	name := filepath.Join(dir, "roots.pem")
	return name, os.WriteFile(name, slices.Concat(own, []byte("\n"), systemRoots()), 0o600)
}

// systemRoots returns the system's authorities, each once, from the places where
// crypto/x509 looks for them. By default git reads most of them three times whenever it
// uses the network: in a directory, under two names, and in a file.
func systemRoots() (roots []byte) {
	files := []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	}
	if name := os.Getenv("SSL_CERT_FILE"); name != "" {
		files = []string{name}
	}
	dirs := []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
	if list := os.Getenv("SSL_CERT_DIR"); list != "" {
		dirs = filepath.SplitList(list)
	}
	seen := map[string]bool{}
	add := func(data []byte) {
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" && !seen[string(block.Bytes)] {
				seen[string(block.Bytes)] = true
				roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
			}
		}
	}
	for _, name := range files {
		if data, err := os.ReadFile(name); err == nil {
			add(data)
			break
		}
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir) // a directory that cannot be read has none
		for _, entry := range entries {
			if data, err := os.ReadFile(filepath.Join(dir, entry.Name())); err == nil {
				add(data)
			}
		}
	}
	return roots
}
