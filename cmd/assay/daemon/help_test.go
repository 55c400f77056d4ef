package daemon

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/tools/txtar"

	"github.com/assay-proxy/assay/proxy/proxytest"
)

// syncBuilder is a strings.Builder for several goroutines.
type syncBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// waitFor waits until ok, with a time limit for a busy machine.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("it has not come")
}

func fetchText(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// bigModules adds n modules with zips of random content of about the size, and returns their paths.
func bigModules(world *proxytest.World, n, size int) []string {
	var paths []string
	random := rand.NewChaCha8(sha256.Sum256([]byte("modules")))
	for i := range n {
		content := make([]byte, size+i*1000)
		random.Read(content)
		m := module.Version{Path: fmt.Sprintf("example.com/big%d", i), Version: "v1.0.0"}
		world.AddModule(m, []txtar.File{{Name: "data", Data: content}})
		paths = append(paths, m.Path+"/@v/v1.0.0.zip")
	}
	return paths
}
