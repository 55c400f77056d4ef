package admin_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-proxy/assay/cmd/assay/admin"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
)

// newServer returns a server for a data directory with a store.
func newServer(t *testing.T, data string) *admin.Server {
	t.Helper()
	db, err := bolt.Open(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	voucher := storage.ProvedBy("sum.example.com")
	if err := storage.NoteVoucher(t.Context(), db, voucher); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("content", 100_000)
	for _, key := range []string{voucher.Key("example.com/a/@v/v1.0.0.mod"), voucher.Key("example.com/a/@v/v1.0.0.zip"), voucher.Key("example.com/ab/@v/v1.0.0.zip"), "sumdb/sum.example.com/lookup/x@v1.0.0"} {
		info := storage.Info{Key: key, Size: int64(len(content)), Proof: "sum.example.com"}
		if err := db.Create(t.Context(), info, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	return &admin.Server{Data: data, Store: db, Version: "test", Logger: slog.New(slog.DiscardHandler)}
}

func save(t *testing.T, client *admin.Client) []byte {
	t.Helper()
	backup, err := client.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer backup.Close()
	var archive bytes.Buffer
	if _, err := admin.SaveTo(backup, &archive); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// names returns the names in a directory.
func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// The socket works below any data directory, and its directory lets only the owner in.
func TestSocket(t *testing.T) {
	t.Parallel()
	for _, data := range []string{t.TempDir(), filepath.Join(t.TempDir(), strings.Repeat("long/", 40))} {
		if len(data) > 90 && runtime.GOOS != "linux" {
			continue
		}
		s := newServer(t, data)
		if err := os.MkdirAll(filepath.Join(data, "admin"), 0o777); err != nil {
			t.Fatal(err)
		}
		socket, err := admin.Listen(s)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- socket.Serve() }()
		info, err := os.Stat(filepath.Join(data, "admin"))
		if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o700 {
			t.Errorf("the directory of the socket is %v, %v", info.Mode(), err)
		}
		client, err := admin.Dial(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		save(t, client)
		if err := errors.Join(client.Close(), socket.Close(), <-ended); err != nil {
			t.Error(err)
		}
		if _, err := admin.Dial(t.Context(), data); err == nil || !strings.Contains(err.Error(), "it does not answer") {
			t.Errorf("Dial of a server that has ended = %v", err)
		}
	}
}

// A link in place of the socket's directory is not followed: its target may be open to others, and
// keeps its mode.
func TestSocketBehindLink(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir())
	victim := t.TempDir()
	if err := os.Chmod(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(s.Data, "admin")); err != nil {
		t.Skip(err)
	}
	if socket, err := admin.Listen(s); err == nil || !strings.Contains(err.Error(), "is no directory; remove it") {
		t.Errorf("Listen = %v, %v", socket, err)
	}
	if info, err := os.Stat(victim); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o755 || len(names(t, victim)) > 0 {
		t.Errorf("the directory behind the link has the mode %v and %v, %v", info.Mode(), names(t, victim), err)
	}
}

// The record of purges has a bound.
func TestLongReason(t *testing.T) {
	t.Parallel()
	client := admin.Local(newServer(t, t.TempDir()))
	defer client.Close()
	order := admin.Purge{Module: "example.com/a", Reason: strings.Repeat("a", 1001)}
	if _, err := client.Purge(t.Context(), order); err == nil || !strings.Contains(err.Error(), "say it in fewer words") {
		t.Errorf("Purge with a reason of 1001 bytes = %v", err)
	}
	order.Reason = order.Reason[1:]
	if done, err := client.Purge(t.Context(), order); err != nil || done.Files != 2 {
		t.Errorf("Purge with a reason of 1000 bytes = %+v, %v", done, err)
	}
}

// pinningStore is a store in which a file is pinned at the moment when a purge is noted.
type pinningStore struct {
	storage.Store
	pin func() error
}

func (s *pinningStore) SwapState(ctx context.Context, name string, old, value []byte) error {
	return errors.Join(s.pin(), s.Store.SwapState(ctx, name, old, value))
}

// What is pinned while a purge runs is not purged either without --pinned.
func TestPurgeBesidePin(t *testing.T) {
	t.Parallel()
	server := newServer(t, t.TempDir())
	voucher := storage.PinnedIn("log.example")
	if err := storage.NoteVoucher(t.Context(), server.Store, voucher); err != nil {
		t.Fatal(err)
	}
	store, key := server.Store, voucher.Key("example.com/a/@v/v1.0.1.zip")
	server.Store = &pinningStore{store, func() error {
		return store.Create(context.Background(), storage.Info{Key: key, Proof: "log.example"}, strings.NewReader(""))
	}}
	client := admin.Local(server)
	defer client.Close()
	if done, err := client.Purge(t.Context(), admin.Purge{Module: "example.com/a", Reason: "test"}); err != nil || done.Files != 2 {
		t.Errorf("Purge = %+v, %v", done, err)
	}
	if _, err := store.Stat(t.Context(), key); err != nil {
		t.Errorf("what is pinned: %v", err)
	}
}

// What was pinned is purged only when that is said, also if its log is lost: there may be no other copy.
func TestPurgePinned(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir())
	v := storage.PinnedIn("lost.example.com")
	if err := storage.NoteVoucher(t.Context(), s.Store, v); err != nil {
		t.Fatal(err)
	}
	info := storage.Info{Key: v.Key("private.example/a/@v/v1.0.0.zip"), Size: 1, Proof: "lost.example.com"}
	if err := s.Store.Create(t.Context(), info, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	client := admin.Local(s)
	defer client.Close()
	order := admin.Purge{Module: "private.example/a", Reason: "test"}
	if _, err := client.Purge(t.Context(), order); err == nil || !strings.Contains(err.Error(), "add --pinned") {
		t.Errorf("Purge = %v", err)
	}
	order.Pinned = true
	if done, err := client.Purge(t.Context(), order); err != nil || done.Files != 1 {
		t.Errorf("Purge of what is pinned = %+v, %v", done, err)
	}
}

// The items of a module are those of the modules below it too, and of no other one.
func TestItems(t *testing.T) {
	t.Parallel()
	client := admin.Local(newServer(t, t.TempDir()))
	defer client.Close()
	for _, test := range []struct {
		module string
		want   int
	}{{"", 4}, {"example.com", 3}, {"example.com/a", 2}, {"example.com/ab", 1}, {"example.co", 0}} {
		n := 0
		for item, err := range client.Items(t.Context(), test.module) {
			if err != nil {
				t.Fatal(err)
			}
			if item.Module == "" != strings.HasPrefix(item.Key, "sumdb/") || item.Size != 700_000 {
				t.Errorf("%+v", item)
			}
			n++
		}
		if n != test.want {
			t.Errorf("%d items of %q, want %d", n, test.module, test.want)
		}
	}
}

// The files of a module follow each other, whatever vouches for them: a list keeps one module in
// memory.
func TestItemsOfSeveralVouchers(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir())
	for _, name := range []string{"a.example.com", "z.example.com"} {
		v := storage.ProvedBy(name)
		if err := storage.NoteVoucher(t.Context(), s.Store, v); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"example.com/a/@v/v1.0.0.info", "example.com/a/@v/v1.1.0.mod", "example.com/b/@v/v1.0.0.zip"} {
			if err := s.Store.Create(t.Context(), storage.Info{Key: v.Key(path), Size: 1, Proof: name}, strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	client := admin.Local(s)
	defer client.Close()
	var got []string
	for item, err := range client.Items(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 || got[len(got)-1] != item.Module {
			got = append(got, item.Module)
		}
	}
	if want := []string{"example.com/a", "example.com/ab", "example.com/b", ""}; !slices.Equal(got, want) {
		t.Errorf("the items are of %q, one after another, want %q", got, want)
	}
}

// However an archive ends too early, it is no backup, and nothing of it stays. (Of the zeros at
// the end of an archive none are needed.)
func TestCutArchive(t *testing.T) {
	t.Parallel()
	client := admin.Local(newServer(t, t.TempDir()))
	defer client.Close()
	archive := save(t, client)
	for _, cut := range []int{1, 100, 1500, 4000, len(archive) / 2, len(archive) - 100, len(archive)} {
		data := filepath.Join(t.TempDir(), "data")
		if _, err := admin.Restore(bytes.NewReader(archive[:len(archive)-cut]), data); !errors.Is(err, admin.ErrNotWhole) {
			t.Errorf("Restore without the last %d bytes = %v, want ErrNotWhole", cut, err)
		}
		dir := filepath.Join(t.TempDir(), "backup")
		if _, err := admin.SaveDirectory(bytes.NewReader(archive[:len(archive)-cut]), dir); !errors.Is(err, admin.ErrNotWhole) {
			t.Errorf("SaveDirectory without the last %d bytes = %v, want ErrNotWhole", cut, err)
		}
		if left := append(names(t, data), names(t, filepath.Dir(dir))...); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	for _, at := range []int{600, 5000, len(archive) / 2} { // of the content of a file
		damaged := bytes.Clone(archive)
		damaged[at] ^= 1
		if _, err := admin.Restore(bytes.NewReader(damaged), t.TempDir()); !errors.Is(err, admin.ErrNotWhole) {
			t.Errorf("Restore with another byte at %d = %v, want ErrNotWhole", at, err)
		}
	}
}

// A server that stops in the middle of a backup is an error of the client.
func TestBackupCutOff(t *testing.T) {
	t.Parallel()
	client := admin.Local(newServer(t, t.TempDir()))
	backup, err := client.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer backup.Close()
	if _, err := io.ReadFull(backup, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, backup); err == nil {
		t.Error("the end of a backup that was cut off is no error")
	}
}

// A backup that is not read ends after a while: others wait for it.
func TestBackupNotRead(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		client := admin.Local(newServer(t, data))
		defer client.Close()
		stalled, err := client.Backup(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer stalled.Close()
		if _, err := io.ReadFull(stalled, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Minute) // not too long
		if _, err := io.ReadFull(stalled, make([]byte, 1000_000)); err != nil {
			t.Fatal(err)
		}
		waits := ""
		client.Waits = func(running string) { waits += running }
		begin := time.Now()
		if _, err := client.Compact(t.Context()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
		if waited := time.Since(begin); waited < time.Minute || waited > 10*time.Minute {
			t.Errorf("a compaction has waited %v for a backup that nothing reads", waited)
		}
		if waits != "a backup" {
			t.Errorf("it waited for %q", waits)
		}
		if _, err := io.Copy(io.Discard, stalled); err == nil {
			t.Error("the backup that was not read is whole")
		}
	})
}

// An archive writes nothing but what a backup has.
func TestHostileArchive(t *testing.T) {
	t.Parallel()
	for _, header := range []tar.Header{
		{Name: "../evil", Typeflag: tar.TypeReg},
		{Name: "/evil", Typeflag: tar.TypeReg},
		{Name: "log/../../evil", Typeflag: tar.TypeReg},
		{Name: "log/..", Typeflag: tar.TypeReg},
		{Name: "log/a/b", Typeflag: tar.TypeReg},
		{Name: `log/..\evil`, Typeflag: tar.TypeReg},
		{Name: "evil", Typeflag: tar.TypeReg},
		{Name: "evil/file", Typeflag: tar.TypeReg},
		{Name: "log", Typeflag: tar.TypeSymlink, Linkname: "/tmp"},
		{Name: "tokens", Typeflag: tar.TypeSymlink, Linkname: "/tmp/evil"},
		{Name: "tokens", Typeflag: tar.TypeLink, Linkname: "meta.db"},
		{Name: "meta.db", Typeflag: tar.TypeReg},
	} {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, h := range []tar.Header{{Name: "meta.db", Typeflag: tar.TypeReg}, header} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if _, err := admin.Restore(&archive, filepath.Join(dir, "data")); !errors.Is(err, admin.ErrNotWhole) || !strings.Contains(err.Error(), "no backup has a file") {
			t.Errorf("%s: Restore = %v", header.Name, err)
		}
		if left := names(t, dir); !slices.Equal(left, []string{"data"}) || len(names(t, filepath.Join(dir, "data"))) > 0 {
			t.Errorf("%s: left behind: %v", header.Name, left)
		}
	}
}

// A restore begins where an interrupted one has ended, and only there or in an empty directory.
func TestRestoreAgain(t *testing.T) {
	t.Parallel()
	client := admin.Local(newServer(t, t.TempDir()))
	defer client.Close()
	archive := save(t, client)
	data := t.TempDir()
	for _, name := range []string{"restore.unfinished/log/head", "restore.unfinished/blobs.db", "meta.db", "evidence/x", "lost+found/x"} {
		path := filepath.Join(data, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("half"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.CheckRestored(data); err == nil || !strings.Contains(err.Error(), "run assay restore again") {
		t.Errorf("CheckRestored = %v", err)
	}
	if _, err := admin.Restore(bytes.NewReader(archive), data); err != nil {
		t.Fatal(err)
	}
	if err := admin.CheckRestored(data); err != nil {
		t.Error(err)
	}
	if got := names(t, data); !slices.Equal(got, []string{"blobs.db", "lost+found", "meta.db"}) {
		t.Errorf("restored %v", got)
	}
	if _, err := admin.Restore(bytes.NewReader(archive), data); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("Restore into a directory in use = %v", err)
	}
	db, err := bolt.Open(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if v, err := db.Verify(t.Context(), storage.VerifyOptions{}); err != nil || v.Damaged > 0 || v.Objects != 4 {
		t.Errorf("Verify = %+v, %v", v, err)
	}
}

// What an interrupted backup has left is no hindrance to the next.
func TestSaveAgain(t *testing.T) {
	t.Parallel()
	client := admin.Local(newServer(t, t.TempDir()))
	defer client.Close()
	archive := save(t, client)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "backup.unfinished", "meta.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "backup.tar.unfinished"), bytes.Repeat([]byte("half"), 10<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	// Another user may have put something there that leads elsewhere, or is open to read.
	victim := filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("of another"), 0o600), os.Symlink(victim, filepath.Join(dir, "linked.tar.unfinished"))); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.SaveFile(bytes.NewReader(archive), filepath.Join(dir, "linked.tar")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "of another" {
		t.Errorf("the file that a link leads to has %d bytes, %v", len(got), err)
	}
	if _, err := admin.SaveDirectory(bytes.NewReader(archive), filepath.Join(dir, "backup")+"/"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.SaveFile(bytes.NewReader(archive), filepath.Join(dir, "backup.tar")); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"backup", "backup.tar", "linked.tar"}) {
		t.Errorf("there is %v", got)
	}
	in, err := admin.OpenBackup(filepath.Join(dir, "backup"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := admin.Restore(in, t.TempDir()); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "backup.tar")); err != nil || !bytes.Equal(got, archive) {
		t.Errorf("the file has %d other bytes, or %v", len(got), err)
	}
	for _, save := range []func(io.Reader, string) (admin.Manifest, error){admin.SaveDirectory, admin.SaveFile} {
		if _, err := save(bytes.NewReader(archive), filepath.Join(dir, "backup")); !errors.Is(err, os.ErrExist) {
			t.Errorf("saved over an older backup: %v", err)
		}
	}
}

// One backup or compaction runs at a time. A command that waits for another one learns once what
// runs; one that does not wait learns nothing.
func TestWaits(t *testing.T) {
	t.Parallel()
	server := newServer(t, t.TempDir())
	client, other := admin.Local(server), admin.Local(server)
	defer client.Close()
	defer other.Close()
	client.Waits = func(running string) { t.Errorf("the first one waits for %s", running) }
	first, err := client.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan string, 10)
	other.Waits = func(running string) { waits <- running }
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := other.Backup(ctx)
		gone <- err
	}()
	if running := <-waits; running != "a backup" {
		t.Errorf("the second one waits for %q", running)
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the second one: %v", err)
	}
	done := make(chan error)
	go func() {
		_, err := other.Compact(t.Context())
		done <- err
	}()
	if running := <-waits; running != "a backup" {
		t.Errorf("the compaction waits for %q", running)
	}
	if _, err := io.Copy(io.Discard, first); err != nil {
		t.Error(err)
	}
	if err := errors.Join(first.Close(), <-done); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if save(t, other); len(waits) > 0 {
		t.Errorf("it waits for %s after that has ended", <-waits)
	}
}
