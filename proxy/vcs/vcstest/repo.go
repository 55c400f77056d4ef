package vcstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/tools/txtar"
)

// Repo is a repository: a bare one that is served, and a work tree beside it. What is
// done in the work tree can be seen by all at once.
type Repo struct {
	w    *World
	name string // path on the git host, with .git
	tree string
}

// Repo makes an empty repository with the branch main, served at
// https://git.corp.example/<name>.git.
func (w *World) Repo(name string) *Repo {
	w.t.Helper()
	r := &Repo{w: w, name: name + ".git", tree: filepath.Join(w.dir, "trees", name)}
	// As git init makes them (gitrepository-layout(5)), without its 40 files of examples.
	// The work tree has the objects and references of the served repository, so that
	// nothing has to be pushed; its HEAD stays its own (as git's contrib/workdir has it).
	own := filepath.Join(r.tree, ".git")
	for _, dir := range []string{own, filepath.Join(r.Dir(), "objects"), filepath.Join(r.Dir(), "refs", "heads"), filepath.Join(r.Dir(), "refs", "tags")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, part := range []string{"objects", "refs"} {
		if err := os.Symlink(filepath.Join(r.Dir(), part), filepath.Join(own, part)); err != nil {
			w.t.Fatal(err)
		}
	}
	const core = "[core]\n\trepositoryformatversion = 0\n\tbare = "
	for dir, config := range map[string]string{
		own: core + "false\n",
		// As the large hosts have it.
		r.Dir(): core + "true\n[uploadpack]\n\tallowReachableSHA1InWant = true\n\tallowFilter = true\n",
	} {
		writeFile(w.t, filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/main\n"), 0o644)
		writeFile(w.t, filepath.Join(dir, "config"), []byte(config), 0o644)
	}
	return r
}

// Module is Repo with a page at https://corp.example/<name> and one tagged version
// for each archive, whose comment is the tag.
func (w *World) Module(name string, versions ...string) *Repo {
	w.t.Helper()
	r := w.Repo(name)
	w.Page(name, PageHost+"/"+name+" git "+r.URL())
	for _, text := range versions {
		archive := txtar.Parse([]byte(text))
		r.Commit(text)
		for tag := range strings.FieldsSeq(string(archive.Comment)) {
			r.Tag(tag)
		}
	}
	return r
}

// URL is the repository over https.
func (r *Repo) URL() string { return "https://" + GitHost + "/" + r.name }

// Dir is the bare repository.
func (r *Repo) Dir() string { return filepath.Join(r.w.repos(), filepath.FromSlash(r.name)) }

// Commit writes the files of a txtar archive, commits them, and returns the
// commit.
func (r *Repo) Commit(archive string) string {
	r.w.t.Helper()
	for _, file := range txtar.Parse([]byte(archive)).Files {
		writeFile(r.w.t, filepath.Join(r.tree, filepath.FromSlash(file.Name)), file.Data, 0o644)
	}
	r.Git("add", "-A")
	r.Git("commit", "-q", "--allow-empty", "-m", "change")
	return r.head()
}

// head returns the newest commit of the branch, as git rev-parse HEAD does. No reference
// is packed here, and a file is read sooner than a program is run.
func (r *Repo) head() string {
	r.w.t.Helper()
	own := filepath.Join(r.tree, ".git")
	text, err := os.ReadFile(filepath.Join(own, "HEAD"))
	if ref, ok := strings.CutPrefix(string(text), "ref: "); ok && err == nil {
		text, err = os.ReadFile(filepath.Join(own, filepath.FromSlash(strings.TrimSpace(ref))))
	}
	if err != nil {
		r.w.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Tag tags the newest commit, or moves the tag there.
func (r *Repo) Tag(tag string) {
	r.w.t.Helper()
	name := filepath.Join(r.Dir(), "refs", "tags", filepath.FromSlash(tag))
	writeFile(r.w.t, name, []byte(r.head()+"\n"), 0o644)
}

// Branch makes a branch at the newest commit, or moves to it.
func (r *Repo) Branch(name string) {
	r.w.t.Helper()
	r.Git("checkout", "-q", "-B", name)
}

// Remove removes the repository from its host.
func (r *Repo) Remove() {
	r.w.t.Helper()
	if err := os.RemoveAll(r.Dir()); err != nil {
		r.w.t.Fatal(err)
	}
}

// Git runs git in the work tree and returns what it prints.
func (r *Repo) Git(args ...string) string {
	t := r.w.t
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.tree
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "HOME="+r.w.dir,
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=maintenance.auto", "GIT_CONFIG_VALUE_0=false",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@corp.example", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@corp.example")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
