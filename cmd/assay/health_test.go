package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealth(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		writeText(w, status, "stopping\n")
	}))
	address := strings.TrimPrefix(server.URL, "http://")
	var out strings.Builder
	if err := health(t.Context(), address, &out); err != nil || !strings.Contains(out.String(), "/readyz: stopping") {
		t.Errorf("%v, %q", err, out.String())
	}
	status = http.StatusServiceUnavailable
	if err := health(t.Context(), address, &out); err == nil || !strings.Contains(err.Error(), "not ready: 503 stopping") {
		t.Errorf("not ready: %v", err)
	}
	server.Close()
	if err := health(context.Background(), address, &out); err == nil || !strings.Contains(err.Error(), "no answer from http://"+address) {
		t.Errorf("no server: %v", err)
	}
}

func TestHealthURL(t *testing.T) {
	for listen, want := range map[string]string{
		"localhost:3000": "http://localhost:3000/readyz", ":3000": "http://localhost:3000/readyz", "0.0.0.0:80": "http://localhost:80/readyz",
		"[::]:3000": "http://localhost:3000/readyz", "[fe80::1]:3000": "http://[fe80::1]:3000/readyz", "192.0.2.1:3000": "http://192.0.2.1:3000/readyz",
		"3000": "",
	} {
		if got, err := healthURL(listen); got != want || (err != nil) != (want == "") {
			t.Errorf("healthURL(%q) = %q, %v, want %q", listen, got, err, want)
		}
	}
}
