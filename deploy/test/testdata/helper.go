// Command helper makes what the scripts of deploy/test need beside the program:
//
//	helper module DIRECTORY PATH BYTES       writes a module of this size for an upstream file://DIRECTORY
//	helper git DIRECTORY CERTIFICATE KEY     serves the repositories in a directory over https, on port 443
//
// With the variable PASSWORD the repositories are only for the user git with this password.
package main

import (
	"archive/zip"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/module"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 5 && os.Args[1] == "module":
		err = write(os.Args[2], os.Args[3], os.Args[4])
	case len(os.Args) == 5 && os.Args[1] == "git":
		err = serve(os.Args[2], os.Args[3], os.Args[4], os.Getenv("PASSWORD"))
	default:
		err = fmt.Errorf("not a command: %q", os.Args[1:])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// serve answers with git's own program for it.
func serve(dir, certificate, key, password string) error {
	programs, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return err
	}
	git := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(programs)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"},
	}
	return http.ListenAndServeTLS(":443", certificate, key, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, given, _ := r.BasicAuth(); password != "" && (user != "git" || given != password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="repositories"`)
			http.Error(w, "the password is wrong", http.StatusUnauthorized)
			return
		}
		git.ServeHTTP(w, r)
	}))
}

// write makes version v1.0.0 of a module, with data that cannot be compressed.
func write(dir, path, bytes string) error {
	n, err := strconv.Atoi(bytes)
	if err != nil {
		return err
	}
	escaped, err := module.EscapePath(path)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, escaped, "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mod := "module " + path + "\n"
	for name, text := range map[string]string{"list": "v1.0.0\n", "v1.0.0.info": `{"Version":"v1.0.0","Time":"2026-01-02T03:04:05Z"}`, "v1.0.0.mod": mod} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	file, err := os.Create(filepath.Join(dir, "v1.0.0.zip"))
	if err != nil {
		return err
	}
	out := zip.NewWriter(file)
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(data)
	text := []byte("package x\n\nconst Text = \"hello from a module\"\n")
	for name, content := range map[string][]byte{"go.mod": []byte(mod), "x.go": text, "data": data} {
		w, err := out.Create(fmt.Sprintf("%s@v1.0.0/%s", path, name))
		if err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return file.Close()
}
