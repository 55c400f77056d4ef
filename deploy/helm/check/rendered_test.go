// Package check_test checks what the chart makes: deploy/test/helm.sh renders it with many values, and
// runs these tests on the results. The types are those of Kubernetes, of the Gateway API and of the
// Prometheus operator. Like the API server, decoding refuses unknown fields and wrong types; unlike
// it, it does not check all values.
package check_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

var (
	renderedDir = flag.String("rendered", "", "directory with the rendered files, *.yaml")
	upgradedDir = flag.String("upgraded", "", "directory with the same, rendered by the next version of the chart")
)

// object is what every object of the API is.
type object interface {
	runtime.Object
	meta.Object
}

// release is one rendering of the chart.
type release []object

// forEachRelease runs a test for each rendered file.
func forEachRelease(t *testing.T, test func(t *testing.T, r release)) {
	if *renderedDir == "" {
		t.Skip("no -rendered; run deploy/test/run helm")
	}
	files, err := filepath.Glob(filepath.Join(*renderedDir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing is rendered: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := decode(data)
			if err != nil {
				t.Fatal(err)
			}
			test(t, r)
		})
	}
}

// forRelease runs a test for the rendered file with this name.
func forRelease(t *testing.T, name string, test func(t *testing.T, r release)) {
	t.Run(name, func(t *testing.T) {
		ran := false
		forEachRelease(t, func(t *testing.T, r release) {
			if path.Base(t.Name()) == name {
				ran = true
				test(t, r)
			}
		})
		if !ran {
			t.Errorf("%s is not rendered", name)
		}
	})
}

// decode returns the objects of a stream of YAML documents. Each must be of a known kind, and have no
// unknown or repeated field.
func decode(stream []byte) (release, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		apps.AddToScheme, batch.AddToScheme, core.AddToScheme, networking.AddToScheme, policy.AddToScheme,
		gateway.Install, monitoring.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	var r release
	documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(stream)))
	defer documents.Close()
	buffer := make([]byte, len(stream)+1)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		document := buffer[:n]
		if len(bytes.TrimSpace(withoutComments(document))) == 0 {
			continue
		}
		o, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, errors.New(err.Error() + "\nin\n" + string(document))
		}
		r = append(r, o.(object))
	}
}

// withoutComments returns the lines of a document that are no comments.
func withoutComments(document []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(document) {
		if !bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) && string(bytes.TrimSpace(line)) != "---" {
			b.Write(line)
		}
	}
	return b.Bytes()
}

// all returns the objects of one type.
func all[T object](r release) []T {
	var found []T
	for _, o := range r {
		if o, ok := o.(T); ok {
			found = append(found, o)
		}
	}
	return found
}

// only returns the object of a type of which there must be one.
func only[T object](t *testing.T, r release) T {
	t.Helper()
	found := all[T](r)
	if len(found) != 1 {
		t.Fatalf("there are %d of %T", len(found), *new(T))
	}
	return found[0]
}
