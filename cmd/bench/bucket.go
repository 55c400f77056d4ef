package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// objectStore is an S3 server on loopback: versitygw over a directory.
type objectStore struct {
	*process
	b    *bench
	dir  string // removed at the end
	made int    // buckets
}

// The credentials of an objectStore.
const storeUser, storeSecret = "benchaccess", "benchsecret123"

// bucketEnv are the credentials in the environment of its clients, and nothing of the user's own.
var bucketEnv = []string{
	"AWS_ACCESS_KEY_ID=" + storeUser, "AWS_SECRET_ACCESS_KEY=" + storeSecret, "AWS_REGION=us-east-1", "AWS_SESSION_TOKEN=", "AWS_PROFILE=",
	"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
}

func startObjectStore(b *bench) (*objectStore, error) {
	if b.versitygw == "" {
		return nil, absent("versitygw")
	}
	dir, err := b.newDir()
	if err != nil {
		return nil, err
	}
	s := &objectStore{b: b, dir: dir}
	if err := errors.Join(os.Mkdir(s.buckets(), 0o755), os.Mkdir(s.local(), 0o755)); err != nil {
		return nil, err
	}
	s.process, err = b.start("/health", false, []string{"ROOT_ACCESS_KEY=" + storeUser, "ROOT_SECRET_KEY=" + storeSecret},
		b.versitygw, "--port", "ADDRESS", "--quiet", "--keep-alive", "--health", "/health", "posix", s.buckets())
	return s, err
}

// buckets is the directory of the server, local that for directories of its clients.
func (s *objectStore) buckets() string { return filepath.Join(s.dir, "buckets") }
func (s *objectStore) local() string   { return filepath.Join(s.dir, "local") }

// end ends the server and removes all of its files, and those of its clients.
func (s *objectStore) end() {
	s.stop()
	_ = os.RemoveAll(s.dir) // the directory of all files is removed at the end
}

// bucket is an empty bucket, which a server reaches at endpoint.
type bucket struct {
	store          *objectStore
	name, endpoint string
}

func (s *objectStore) newBucket() (bucket, error) {
	s.made++
	name := fmt.Sprintf("bucket%d", s.made)
	return bucket{s, name, s.url}, os.Mkdir(filepath.Join(s.buckets(), name), 0o755)
}

// delayed is the same bucket, whose requests take so long in addition. stop ends the server in between.
func (bu bucket) delayed(wait time.Duration) (far bucket, stop func(), err error) {
	to, err := url.Parse(bu.endpoint)
	if err != nil {
		return bucket{}, nil, err
	}
	proxy := &httputil.ReverseProxy{
		// The signature of a request covers its host.
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true},
		ErrorLog:  log.New(io.Discard, "", 0), // a client that stops reading is no error
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(wait)
		proxy.ServeHTTP(w, r)
	}))
	far = bu
	far.endpoint = server.URL
	return far, server.Close, nil
}

// replica starts assay with the bucket as its store, and an empty directory for local copies.
func (bu bucket) replica(oneCore bool, upstream, key string, args ...string) (*process, error) {
	b := bu.store.b
	data, err := os.MkdirTemp(bu.store.local(), "data-")
	if err != nil {
		return nil, err
	}
	return b.start("/readyz", oneCore, bucketEnv, b.assay, append([]string{"serve", "--listen", "ADDRESS", "--data", data,
		"--store", fmt.Sprintf("s3://%s/store?endpoint=%s&path-style=true&region=us-east-1", bu.name, bu.endpoint),
		"--upstream", upstream, "--sumdb", key}, args...)...)
}

// goproxy starts goproxy with the bucket as its cache.
func (bu bucket) goproxy(store *replay) (*process, error) {
	temporary, err := os.MkdirTemp(bu.store.local(), "temp-")
	if err != nil {
		return nil, err
	}
	return ways{bu.store.b}.startGoproxy(false, store.url, store.log.Key(), "--temp-dir", temporary, "--cacher", "s3",
		"--cacher-s3-endpoint", strings.TrimPrefix(bu.endpoint, "http://"), "--cacher-s3-disable-tls", "--cacher-s3-force-path-style",
		"--cacher-s3-bucket", bu.name, "--cacher-s3-access-key-id", storeUser, "--cacher-s3-secret-access-key", storeSecret)
}

// athens starts Athens with the bucket as its storage. Several of them share nothing else: what they could share
// fetches by is another server.
func (bu bucket) athens(store *replay) (*process, error) {
	return ways{bu.store.b}.startAthens(store, append([]string{"ATHENS_STORAGE_TYPE=s3", "ATHENS_S3_BUCKET_NAME=" + bu.name,
		"AWS_ENDPOINT=" + bu.endpoint, "AWS_FORCE_PATH_STYLE=true"}, bucketEnv...)...)
}

// severally starts several servers. stop ends them.
func severally(n int, start func() (*process, error)) (servers []*process, stop func(), err error) {
	stop = func() {
		for _, p := range servers {
			p.stop()
		}
	}
	for range n {
		p, err := start()
		if err != nil {
			stop()
			return nil, nil, err
		}
		servers = append(servers, p)
	}
	return servers, stop, nil
}
