package s3_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/storage/s3"
	"github.com/assay-proxy/assay/storage/s3/s3test"
)

func probe(t *testing.T, server *s3test.Server, fault func(s3test.Request) s3test.Fault) (s3.Report, error) {
	t.Helper()
	server.Fail(fault)
	return open(t, options(server)).Probe(t.Context())
}

func TestProbe(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	report, err := probe(t, server, nil)
	if err != nil || report.Err() != nil || report.Left != 0 {
		t.Errorf("Probe = %+v, %v, want nothing broken", report, err)
	}
	if keys := server.Keys(""); len(keys) > 0 || server.Uploads() > 0 {
		t.Errorf("the probe left %q and %d uploads", keys, server.Uploads())
	}
}

// Each lie is found, and said in words.
func TestProbeFindsLies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault func(s3test.Request) s3test.Fault
		says  string
	}{
		"ignores conditions": {func(s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: true} }, "16 of 16 PUTs of one key with If-None-Match"},
		"inverts conditions": {func(s3test.Request) s3test.Fault { return s3test.Fault{Inverted: true} }, "0 of 16 PUTs of one key with If-None-Match"},
		"has two winners": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Unconditional: r.Op == "PUT" && strings.Contains(r.Key, "/race-2") && r.Conditional && r.N%5 == 0}
		}, "PUTs of one key with If-None-Match"},
		"does what it refuses": {func(r s3test.Request) s3test.Fault {
			if r.Op == "PUT" && strings.Contains(r.Key, "/race-") && r.N > 17 {
				return s3test.Fault{Unconditional: true, After: http.StatusPreconditionFailed}
			}
			return s3test.Fault{}
		}, "If-None-Match"},
		"has 409 instead of 412": {func(r s3test.Request) s3test.Fault {
			if r.Op == "PUT" && r.Conditional && strings.Contains(r.Key, "/race-") && r.N > 5 {
				return s3test.Fault{Before: http.StatusConflict}
			}
			return s3test.Fault{}
		}, "409, not 412"},
		"does not know conditions": {func(r s3test.Request) s3test.Fault {
			if r.Conditional {
				return s3test.Fault{Before: http.StatusNotImplemented, Code: "NotImplemented"}
			}
			return s3test.Fault{}
		}, "0 of 16"},
		"ignores If-Match": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Unconditional: strings.Contains(r.Key, "/swap")}
		}, "If-Match is ignored"},
		"lets many swap": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Unconditional: strings.HasSuffix(r.Key, "/swap")}
		}, "16 of 16 PUTs of one key with the same If-Match"},
		"forgets writes": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Forgotten: r.Op == "PUT" && strings.Contains(r.Key, "/read-3")}
		}, "a GET right after a PUT"},
		"reads late": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Hidden: r.Op == "GET" && strings.Contains(r.Key, "/read-5")}
		}, "a GET right after a PUT"},
		"lists late": {func(r s3test.Request) s3test.Fault { return s3test.Fault{Hidden: r.Op == "LIST"} }, "a list right after 8 PUTs has 0"},
		"replaces by parts": {func(r s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: r.Op == "COMPLETE"} },
			"an upload in parts with If-None-Match: * replaced a key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t)
			report, err := probe(t, server, c.fault)
			if err != nil {
				t.Fatal(err)
			}
			if said := report.Err(); said == nil || !strings.Contains(said.Error(), c.says) {
				t.Errorf("it says %v, want %q", said, c.says)
			}
			if keys := server.Keys(""); len(keys) > 0 || server.Uploads() > 0 {
				t.Errorf("the probe left %q and %d uploads", keys, server.Uploads())
			}
		})
	}
}

// Racers that get a 409 try again, and then one wins.
func TestProbeTakesConflicts(t *testing.T) {
	t.Parallel()
	report, err := probe(t, s3test.Start(t), func(r s3test.Request) s3test.Fault {
		if r.Op == "PUT" && r.Conditional && r.N%2 == 0 {
			return s3test.Fault{Before: http.StatusConflict, Code: "ConditionalRequestConflict"}
		}
		return s3test.Fault{}
	})
	if err != nil || report.Err() != nil {
		t.Errorf("Probe = %+v, %v, want nothing broken", report, err)
	}
}

func TestProbeWithoutDelete(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	report, err := probe(t, server, func(r s3test.Request) s3test.Fault {
		if r.Op == "DELETE" {
			return s3test.Fault{Before: http.StatusForbidden, Code: "AccessDenied"}
		}
		return s3test.Fault{}
	})
	if err != nil || report.Err() != nil || report.Left == 0 || report.Left != len(server.Keys("")) {
		t.Errorf("Probe = %+v, %v, with %d keys left; want these and nothing broken", report, err, len(server.Keys("")))
	}
}

func TestProbeFails(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	if _, err := probe(t, server, func(s3test.Request) s3test.Fault {
		return s3test.Fault{Before: http.StatusForbidden, Code: "AccessDenied"}
	}); err == nil || !strings.Contains(err.Error(), "access denied; the credentials need s3:ListBucket") {
		t.Errorf("Probe = %v, want what the credentials lack", err)
	}
	o := options(server)
	o.Bucket = "nobucket"
	if _, err := open(t, o).Probe(t.Context()); err == nil || !strings.Contains(err.Error(), `there is no bucket "nobucket"`) {
		t.Errorf("Probe = %v, want that there is no bucket", err)
	}
}
