package admin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"

	"github.com/assay-proxy/assay/storage"
)

// exporter serves a store for a copy of it into another one, while a server uses it.
type exporter struct{ store storage.Store }

// Object is a stored object that a Client reads. Reading ends with an error if it is not whole.
type Object struct {
	Info   storage.Info
	SHA256 [sha256.Size]byte // as the store has it
	io.ReadCloser
}

// objectHeader has the Info and the hash of an object, in JSON.
const objectHeader = "Assay-Object"

type objectInfo struct {
	Info   storage.Info
	SHA256 string
}

func (e *exporter) serveKeys(w http.ResponseWriter, r *http.Request) {
	serveNames(w, e.store.Keys(r.Context(), ""))
}

func (e *exporter) serveStates(w http.ResponseWriter, r *http.Request) {
	store, ok := e.store.(storage.Enumerator)
	if !ok {
		http.Error(w, "this kind of store cannot list its states", http.StatusInternalServerError)
		return
	}
	serveNames(w, store.States(r.Context(), ""))
}

// serveNames responds with names, each as a JSON text.
func serveNames(w http.ResponseWriter, names iter.Seq2[string, error]) {
	_ = stream(w, func(out io.Writer) error { // the response contains the error
		encoder := json.NewEncoder(out)
		for name, err := range names {
			if err == nil {
				err = encoder.Encode(name)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *exporter) serveObject(w http.ResponseWriter, r *http.Request) {
	object, err := e.store.Open(r.Context(), r.FormValue("key"))
	if err != nil {
		refuse(w, err)
		return
	}
	defer object.Close()
	sum := object.SHA256()
	header, err := json.Marshal(objectInfo{object.Info(), hex.EncodeToString(sum[:])})
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set(objectHeader, string(header))
	_ = stream(w, func(out io.Writer) error {
		_, err := object.WriteTo(out)
		return err
	})
}

func (e *exporter) serveState(w http.ResponseWriter, r *http.Request) {
	value, err := e.store.State(r.Context(), r.FormValue("name"))
	if err != nil {
		refuse(w, err)
		return
	}
	_, _ = w.Write(value) // the client notices if a part is missing
}

// refuse responds with an error that a Client gets as the same kind of error.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		status = http.StatusNotFound
	case errors.Is(err, storage.ErrDamaged):
		status = http.StatusGone
	}
	http.Error(w, line(err), status)
}

// names yields the names of a response of serveNames.
func names(resp *http.Response, yield func(string, error) bool) {
	decoder := json.NewDecoder(&body{resp})
	for {
		var name string
		err := decoder.Decode(&name)
		if err == io.EOF || !yield(name, err) || err != nil {
			return
		}
	}
}

// object returns the object of a response of serveObject.
func object(resp *http.Response) (Object, error) {
	var header objectInfo
	err := json.Unmarshal([]byte(resp.Header.Get(objectHeader)), &header)
	sum, sumErr := hex.DecodeString(header.SHA256)
	if err = errors.Join(err, sumErr); err != nil || len(sum) != sha256.Size {
		return Object{}, fmt.Errorf("the server does not say what the object is: %w", err)
	}
	return Object{header.Info, [sha256.Size]byte(sum), &body{resp}}, nil
}
