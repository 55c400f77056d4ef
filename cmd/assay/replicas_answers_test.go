package main_test

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/assay-proxy/assay/proxy/proxytest"
)

// fetchInTrouble reports whether a server sends the whole object at a path. A server that is killed, or that waits for
// what is away, may break the connection, or answer 502, 503 or 504 and say why. Any other answer fails the test.
func fetchInTrouble(t *testing.T, world *proxytest.World, url, path string) bool {
	t.Helper()
	resp, err := http.Get(url + "/" + path)
	if err != nil {
		return false // nothing listens any more
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return false // the connection was broken
	}
	if resp.StatusCode == http.StatusOK && bytes.Equal(got, world.File(path)) {
		return true
	}
	tells := []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
	if !slices.Contains(tells, resp.StatusCode) || len(bytes.TrimSpace(got)) == 0 {
		t.Errorf("%s from %s: %d, %d bytes %.200q; want the object, a broken connection, or 502, 503 or 504 with a reason",
			path, url, resp.StatusCode, len(got), got)
	}
	return false
}

// getAs fetches a path with a token, or without if it is empty.
func getAs(t *testing.T, url, path, token string) (status int, body []byte) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url+"/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return resp.StatusCode, body
}
