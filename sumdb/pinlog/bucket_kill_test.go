package pinlog_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// Replicas that are killed while they pin lose nothing that they have acknowledged, and all heads that they
// have shown are of one log.
func TestReplicaKill(t *testing.T) {
	t.Parallel()
	if args := childArgs(); args != nil {
		pinInBucket(t, args)
		return
	}
	f := newFleet(t)
	pinOne(t, f.begin("first"), entry(1_000_000))
	acknowledged := map[int64]bool{}
	const replicas = 3
	for round := range 8 {
		var group sync.WaitGroup
		var mu sync.Mutex
		for replica := range replicas {
			group.Go(func() {
				lines := rand.IntN(12)
				cmd := startChild(t, "TestReplicaKill", f.url, f.key, filepath.Join(f.dir, fmt.Sprint("r", replica)), strconv.Itoa((round*replicas+replica)*1000))
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Error(err)
					return
				}
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				in := bufio.NewScanner(out)
				for n := 0; n < lines && in.Scan(); n++ {
					number, head, _ := strings.Cut(in.Text(), " ")
					text, err1 := strconv.Unquote(head)
					id, err2 := strconv.ParseInt(number, 10, 64)
					if err1 != nil || err2 != nil {
						t.Errorf("child: %s", in.Text())
						break
					}
					mu.Lock()
					acknowledged[id] = true
					mu.Unlock()
					f.keep([]byte(text))
				}
				cmd.Process.Kill()
				cmd.Wait()
			})
		}
		group.Wait()
	}
	t.Logf("%d acknowledged entries, %d heads", len(acknowledged), len(f.heads))
	l := openLog(t, f.config("r0"))
	if err := l.Refuses(); err != nil {
		t.Fatal(err)
	}
	for number := range acknowledged {
		if _, err := l.Find(t.Context(), entry(number).Module); err != nil {
			t.Errorf("an acknowledged entry is lost: %v", err)
		}
	}
	f.check(l)
	if err := l.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// pinInBucket pins until the process is killed, and prints each number with a head that covers it.
func pinInBucket(t *testing.T, args []string) {
	store, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Prefix: "store", Endpoint: args[0], PathStyle: true, Spool: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	l, err := pinlog.Open(t.Context(), pinlog.Config{Dir: args[2], Bucket: &pinlog.Bucket{Store: store, Key: args[1], Trust: true}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	for worker := range int64(4) {
		group.Go(func() {
			for n := first + worker; n < first+1000; n += 4 {
				if _, err := l.Pin(context.Background(), entry(n)); err != nil {
					t.Errorf("Pin: %v", err)
					return
				}
				head, err := l.Latest(context.Background())
				mu.Lock()
				fmt.Fprintf(os.Stdout, "%d %q\n", n, head)
				mu.Unlock()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

// A copy of the data directory of a replica, put back with the bucket of the same time, vouches for nothing.
func TestReplicaCopied(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.begin("a")
	f.fill(a, 2)
	old := f.snapshot()
	if err := os.CopyFS(filepath.Join(f.dir, "copy"), os.DirFS(filepath.Join(f.dir, "a"))); err != nil {
		t.Fatal(err)
	}
	f.fill(a, 4)
	old()
	f.refuses(openLog(t, f.config("copy")), "log-trust-bucket")
}

// The key of a log in files begins no second one in a bucket.
func TestBucketKeyOfFiles(t *testing.T) {
	t.Parallel()
	l, files := newOwnLog(t)
	pinOne(t, l, entry(1))
	f := newFleet(t)
	f.key = filepath.Join(files.Dir, "key")
	f.refuses(openLog(t, f.trusting("a")), "assay log move")
	if _, err := pinlog.Create(t.Context(), f.config("b")); err == nil || !strings.Contains(err.Error(), "assay log move") {
		t.Errorf("Create: %v, want a refusal with what to do", err)
	}
	if keys := f.server.Keys(""); len(keys) > 0 {
		t.Errorf("there are keys %v", keys)
	}
}

// Idle replicas send no requests, and those of clients for what is nowhere are bounded.
func TestReplicaRequests(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.begin("a")
	f.fill(a, 2)
	f.server.Fail(nil)
	for range 1000 {
		if _, err := a.Find(t.Context(), entry(0).Module); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Latest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.server.Requests(); n > 0 {
		t.Errorf("hits sent %d requests", n)
	}
	var group sync.WaitGroup
	for n := range int64(500) {
		group.Go(func() {
			if _, err := a.Find(t.Context(), entry(100+n).Module); err == nil {
				t.Error("found what is not there")
			}
		})
	}
	group.Wait()
	if n := f.server.Requests(); n > 100 {
		t.Errorf("500 misses at the same time sent %d requests", n)
	}
}
