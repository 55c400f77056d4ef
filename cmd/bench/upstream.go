package main

import (
	"archive/zip"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/sumdb/note"
)

// upstream is a module proxy with files of our own, and a checksum database with their records.
type upstream struct {
	url  string
	key  string // in the form of GOSUMDB
	dir  string
	http http.Server

	mu    sync.Mutex
	gets  map[string]int // by path
	sums  map[string]string
	async sync.WaitGroup
}

const databaseName = "sum.bench.example"

// newUpstream starts an upstream without modules.
func (m *machine) newUpstream() (*upstream, error) {
	dir, err := m.newDir()
	if err != nil {
		return nil, err
	}
	signer, key, err := note.GenerateKey(rand.Reader, databaseName)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{url: "http://" + listener.Addr().String(), key: key, dir: dir, gets: map[string]int{}, sums: map[string]string{}}
	database := sumdb.NewServer(sumdb.NewTestServer(signer, u.gosum))
	files := http.FileServer(http.Dir(dir))
	prefix := "/sumdb/" + databaseName
	u.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.gets[r.URL.Path]++
		u.mu.Unlock()
		switch {
		case r.URL.Path == prefix+"/supported":
		case strings.HasPrefix(r.URL.Path, prefix):
			http.StripPrefix(prefix, database).ServeHTTP(w, r)
		default:
			files.ServeHTTP(w, r)
		}
	})
	u.async.Go(func() { _ = u.http.Serve(listener) }) // ends with Close
	return u, nil
}

// withModule starts an upstream with a module, whose zip has about size bytes, for f. path is that of
// the module's files without the suffix.
func (m *machine) withModule(name string, size int, f func(u *upstream, path string) (result, error)) (result, error) {
	u, err := m.newUpstream()
	if err != nil {
		return result{}, err
	}
	defer u.stop()
	path, err := u.add("bench.example/"+name, size)
	if err != nil {
		return result{}, err
	}
	return f(u, path)
}

func (u *upstream) stop() {
	_ = u.http.Close() // nothing to lose
	u.async.Wait()
}

// asked returns the number of requests for a path.
func (u *upstream) asked(path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.gets[path]
}

// gosum returns the record of a module version.
func (u *upstream) gosum(path, version string) ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	sum, ok := u.sums[path+"@"+version]
	if !ok {
		return nil, os.ErrNotExist
	}
	return []byte(sum), nil
}

// add adds version v1.0.0 of a module with an incompressible zip of about size bytes, and returns
// the path of its files without the extension.
func (u *upstream) add(module string, size int) (string, error) {
	path := "/" + module + "/@v/v1.0.0"
	base := filepath.Join(u.dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return "", err
	}
	mod := "module " + module + "\n\ngo 1.26\n\nrequire (\n"
	for i := range 20 {
		mod += fmt.Sprintf("\tgithub.com/some-organisation/some-module-%d v1.%d.0 // indirect\n", i, i)
	}
	mod += ")\n"
	err := errors.Join(
		os.WriteFile(base+".mod", []byte(mod), 0o644),
		os.WriteFile(base+".info", []byte(`{"Version":"v1.0.0","Time":"2026-01-02T03:04:05Z","Origin":{"VCS":"git","URL":"https://`+module+`","Ref":"refs/tags/v1.0.0","Hash":"0123456789abcdef0123456789abcdef01234567"}}`), 0o644),
		writeZip(base+".zip", module+"@v1.0.0/", mod, size))
	if err != nil {
		return "", err
	}
	zipSum, err := dirhash.HashZip(base+".zip", dirhash.Hash1)
	if err != nil {
		return "", err
	}
	modSum, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(mod)), nil })
	if err != nil {
		return "", err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sums[module+"@v1.0.0"] = fmt.Sprintf("%s v1.0.0 %s\n%s v1.0.0/go.mod %s\n", module, zipSum, module, modSum)
	return path, nil
}

// addMany adds modules and returns the paths of their zips.
func (u *upstream) addMany(n, size int) (zips []string, err error) {
	for i := range n {
		path, err := u.add(fmt.Sprintf("bench.example/many%d", i), size)
		if err != nil {
			return nil, err
		}
		zips = append(zips, path+".zip")
	}
	return zips, nil
}

// fullTile adds so many modules that the database has a full tile once their records are requested.
// It returns the paths of the records.
func (u *upstream) fullTile() (records []string, err error) {
	for i := range 256 {
		module := fmt.Sprintf("bench.example/tile%d", i)
		if _, err := u.add(module, 100); err != nil {
			return nil, err
		}
		records = append(records, "/sumdb/"+databaseName+lookupName(module))
	}
	return records, nil
}

// lookupName and tileName return paths below that of the database.
func lookupName(modulePath string) string { return "/lookup/" + modulePath + "@v1.0.0" }
func tileName(string) string              { return "/tile/8/0/000" }

// writeZip writes a module zip with files of 100 kB.
func writeZip(name, prefix, mod string, size int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	z := zip.NewWriter(f)
	w, err := z.Create(prefix + "go.mod")
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, mod); err != nil {
		return err
	}
	random := mathrand.NewChaCha8([32]byte{1})
	for i := 0; size > 0; i++ {
		w, err := z.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("%sdata/%05d.bin", prefix, i), Method: zip.Store})
		if err != nil {
			return err
		}
		n := min(size, 100_000)
		if _, err := io.CopyN(w, random, int64(n)); err != nil {
			return err
		}
		size -= n
	}
	return errors.Join(z.Close(), f.Close())
}
