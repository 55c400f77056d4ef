package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"slices"
	"time"
)

// served is what settled leaves for the report.
type served struct{ Files int }

// settled checks that what clients have is the same for all of them, and that each server serves it.
func settled(ctx context.Context, m *modules, servers []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	all, err := readNoted()
	if err != nil {
		return err
	}
	files := map[string]string{}
	for _, n := range all {
		for path, hash := range n.Files {
			if files[path] != "" && files[path] != hash {
				return fmt.Errorf("clients have different files as %s", path)
			}
			files[path] = hash
		}
	}
	for _, server := range servers {
		for _, path := range slices.Sorted(maps.Keys(files)) {
			if err := same(ctx, server+"/"+path, files[path]); err != nil {
				return err
			}
		}
	}
	log.Printf("each of %d servers serves the %d files that clients have", len(servers), len(files))
	return writeJSON("settled", served{len(files)})
}

// same checks the answer for a file. A server that has just lost its object store may need a moment.
func same(ctx context.Context, url, hash string) error {
	for end := time.Now().Add(time.Minute); ; {
		status, body, err := get(ctx, url)
		switch {
		case err == nil && status == http.StatusOK && fmt.Sprintf("%x", sha256.Sum256(body)) == hash:
			return nil
		case err == nil && status != http.StatusServiceUnavailable || time.Now().After(end):
			return fmt.Errorf("%s: %d %.300q, %w", url, status, body, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// get returns the answer of a server.
func get(ctx context.Context, url string) (status int, body []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}
