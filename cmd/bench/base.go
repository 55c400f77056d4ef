package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"time"
)

// spec is one path of the yardstick: its headers, and its body from memory or, with
// http.ServeContent, from a file.
type spec struct {
	Path   string
	Header http.Header
	Body   []byte // if File is empty
	File   string
}

// base serves the specs in a file of JSON. It is the obvious program with net/http that only serves
// these bytes.
func base(address, specFile string) error {
	data, err := os.ReadFile(specFile)
	if err != nil {
		return err
	}
	var specs []spec
	if err := json.Unmarshal(data, &specs); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	for _, s := range specs {
		if s.File != "" {
			mux.HandleFunc(s.Path, func(w http.ResponseWriter, r *http.Request) { serveFile(w, r, s.File) })
			continue
		}
		mux.HandleFunc(s.Path, func(w http.ResponseWriter, _ *http.Request) {
			for name, values := range s.Header {
				w.Header()[name] = values
			}
			w.Header()["Content-Length"] = []string{strconv.Itoa(len(s.Body))}
			_, _ = w.Write(s.Body)
		})
	}
	return http.ListenAndServe(address, mux)
}

func serveFile(w http.ResponseWriter, r *http.Request, name string) {
	f, err := os.Open(name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/zip")
	http.ServeContent(w, r, "", time.Time{}, f)
}

// startBase starts the yardstick.
func (m *machine) startBase(oneCore bool, specs ...spec) (*process, error) {
	data, err := json.Marshal(specs)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(m.dir, "spec-")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return m.start("/readyz", oneCore, nil, self, "base", "ADDRESS", f.Name())
}
