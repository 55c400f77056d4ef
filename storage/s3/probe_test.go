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
		"ignores conditions": {func(s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: true} }, "If-None-Match: * at the same time, 16 of 16 succeeded"},
		"inverts conditions": {func(s3test.Request) s3test.Fault { return s3test.Fault{Inverted: true} }, "If-None-Match: * at the same time, 0 of 16 succeeded"},
		"has two winners": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Unconditional: r.Op == "PUT" && strings.Contains(r.Key, "/race-2") && r.Conditional && r.N%5 == 0}
		}, "of PUTs of one key with If-None-Match"},
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
		}, "with the same If-Match at the same time, 16 of 16"},
		"forgets writes": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Forgotten: r.Op == "PUT" && strings.HasSuffix(r.Key, "/read/~")}
		}, "a GET right after a PUT"},
		"reads late": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Hidden: r.Op == "GET" && strings.HasSuffix(r.Key, "/read/~")}
		}, "a GET right after a PUT"},
		"lists late":     {func(r s3test.Request) s3test.Fault { return s3test.Fault{Hidden: r.Op == "LIST"} }, "has []"},
		"ignores ranges": {func(r s3test.Request) s3test.Fault { return s3test.Fault{NoRange: strings.HasSuffix(r.Key, "/range")} }, "a GET with a Range"},
		"does not delete": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Forgotten: r.Op == "DELETE" && strings.Contains(r.Key, "/read/")}
		}, "a list right after a DELETE has"},
		"lists something else": {func(r s3test.Request) s3test.Fault {
			if r.Op == "LIST" {
				return s3test.Fault{Instead: "<html>Welcome</html>"}
			}
			return s3test.Fault{}
		}, "not one of an object store"},
		"does parts that it refuses": {func(r s3test.Request) s3test.Fault {
			if r.Op == "COMPLETE" && r.N == 2 {
				return s3test.Fault{Unconditional: true, After: http.StatusPreconditionFailed}
			}
			return s3test.Fault{}
		}, "an upload in parts with If-None-Match: * was refused and done"},
		"acknowledges what it does not delete": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Unconditional: r.Op == "DELETE", Forgotten: r.Op == "DELETE" && r.Conditional && r.N == 1}
		}, "acknowledged and not done"},
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
			if keys := server.Keys(""); len(keys) > 0 && name != "does not delete" || server.Uploads() > 0 {
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

// An honest store is not refused because an answer got lost.
func TestProbeInTrouble(t *testing.T) {
	t.Parallel()
	for range 5 {
		report, err := probe(t, s3test.Start(t), troubled())
		if err != nil || report.Err() != nil || len(report.Weak) > 0 {
			t.Errorf("Probe = %+v, %v, want nothing broken", report, err)
		}
	}
}

// A store whose DELETE has no conditions can be shared: what can happen is said.
func TestProbeUnconditionalDelete(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]s3test.Fault{
		"ignored": {Unconditional: true},
		"refused": {Before: http.StatusNotImplemented, Code: "NotImplemented"},
	} {
		report, err := probe(t, s3test.Start(t), func(r s3test.Request) s3test.Fault {
			if r.Op == "DELETE" && r.Conditional {
				return fault
			}
			return s3test.Fault{}
		})
		if err != nil || report.Err() != nil || len(report.Weak) != 1 || !strings.Contains(report.Weak[0], "DELETE ignores If-Match") {
			t.Errorf("%s: Probe = %+v, %v, want one weakness", name, report, err)
		}
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
	}); err == nil || !strings.Contains(err.Error(), "the credentials need s3:ListBucket") {
		t.Errorf("Probe = %v, want what the credentials lack", err)
	}
	o := options(server)
	o.Bucket = "nobucket"
	if _, err := open(t, o).Probe(t.Context()); err == nil || !strings.Contains(err.Error(), `bucket "nobucket": there is no such bucket`) {
		t.Errorf("Probe = %v, want that there is no bucket", err)
	}
}
