package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
)

// A way leads from a go command to the upstream of a recording: through an empty proxy that it
// starts, or directly. stop ends and removes that proxy.
type way func(store *replay) (goproxy string, stop func(), err error)

// direct is the way without a proxy.
func direct(store *replay) (string, func(), error) { return store.url, func() {}, nil }

// ways are the ways through proxies.
type ways struct{ b *bench }

// assay is the way through assay.
func (w ways) assay(predict bool) way {
	return w.through(func(store *replay, data string) (*process, error) {
		return w.b.start("/readyz", false, nil, w.b.assay, "serve", "--listen", "ADDRESS", "--data", data,
			"--upstream", store.url, "--sumdb", store.log.Key(), fmt.Sprint("--predict=", predict))
	})
}

// goproxy is the way through goproxy, which also proves modules.
func (w ways) goproxy() way {
	return w.through(func(store *replay, data string) (*process, error) {
		return w.startGoproxy(false, store.url, store.log.Key(), "--cacher-dir", data)
	})
}

// athens is the way through Athens, whose go command proves modules.
func (w ways) athens() way {
	return w.through(func(store *replay, data string) (*process, error) {
		return w.startAthens(store, "ATHENS_STORAGE_TYPE=disk", "ATHENS_DISK_STORAGE_ROOT="+data)
	})
}

// through is the way through a proxy that starts with an empty directory.
func (w ways) through(start func(store *replay, data string) (*process, error)) way {
	return func(store *replay) (string, func(), error) {
		data, err := w.b.newDir()
		if err != nil {
			return "", nil, err
		}
		p, err := start(store, data)
		if err != nil {
			return "", nil, errors.Join(err, os.RemoveAll(data))
		}
		return p.url, func() {
			p.stop()
			_ = os.RemoveAll(data) // the directory of all files is removed at the end
		}, nil
	}
}

// startGoproxy starts goproxy with the cache that args name, with a checksum database that its upstream
// serves.
func (w ways) startGoproxy(oneCore bool, upstream, key string, args ...string) (*process, error) {
	if w.b.goproxy == "" {
		return nil, absent("goproxy")
	}
	env := []string{"GOPROXY=" + upstream, "GOSUMDB=" + key, "GOPRIVATE=", "GONOPROXY=", "GONOSUMDB=", "GOENV=off", "GOTOOLCHAIN=local"}
	database := databaseName + " " + upstream + "/sumdb/" + databaseName
	return w.b.start("/sumdb/"+databaseName+"/supported", oneCore, env, w.b.goproxy, append([]string{"server", "--address", "ADDRESS", "--proxied-sumdbs", database}, args...)...)
}

// startAthens starts Athens with a storage, whose go command fetches from a recording.
func (w ways) startAthens(store *replay, storage ...string) (*process, error) {
	if w.b.athens == "" {
		return nil, absent("Athens")
	}
	return w.b.start("/healthz", false, append([]string{
		"ATHENS_PORT=ADDRESS", "ATHENS_TIMEOUT=1200",
		"ATHENS_GO_BINARY_ENV_VARS=GOPROXY=" + store.url + ";GOSUMDB=" + store.log.Key() + ";GOPRIVATE=;GONOSUMDB=;GOTOOLCHAIN=local;GOFLAGS=-modcacherw",
	}, storage...), w.b.athens)
}

// observed starts a server before another one, which records what clients request from it.
func observed(behind string) (*recorder, *httptest.Server, error) {
	to, err := url.Parse(behind)
	if err != nil {
		return nil, nil, err
	}
	rec := &recorder{next: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 100},
	}}
	return rec, httptest.NewServer(rec), nil
}

// serve starts assay on a data directory, with u as its only upstream.
func (b *bench) serve(oneCore bool, data string, u *upstream) (*process, error) {
	return b.start("/readyz", oneCore, nil, b.assay, "serve", "--listen", "ADDRESS", "--data", data, "--upstream", u.url, "--sumdb", u.key)
}

// filled starts assay with an empty store and fills it with the paths.
func (b *bench) filled(oneCore bool, u *upstream, paths ...string) (*process, error) {
	data, err := b.newDir()
	if err != nil {
		return nil, err
	}
	p, err := b.serve(oneCore, data, u)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if _, err := get(b.ctx, p.url+path); err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, nil
}
