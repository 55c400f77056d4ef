package s3_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
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

const torn = "an upload in parts is acknowledged, and the key does not have all of it"

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
		"loses a part":        {func(r s3test.Request) s3test.Fault { return s3test.Fault{Forgotten: r.Op == "PART" && r.N == 1} }, torn},
		"loses the last part": {func(r s3test.Request) s3test.Fault { return s3test.Fault{Forgotten: r.Op == "PART" && r.N == 2} }, torn},
		"has half of a part": {func(r s3test.Request) s3test.Fault {
			if r.Op == "PART" && r.N == 1 {
				return s3test.Fault{Torn: 5 << 19}
			}
			return s3test.Fault{}
		}, torn},
		"has the beginning of the parts": {func(r s3test.Request) s3test.Fault {
			if r.Op == "COMPLETE" && r.N == 1 {
				return s3test.Fault{Torn: 5<<20 + 999}
			}
			return s3test.Fault{}
		}, torn},
		"forgets parts": {func(r s3test.Request) s3test.Fault { return s3test.Fault{Forgotten: r.Op == "COMPLETE" && r.N == 1} }, torn},
		"has wrong bytes": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Corrupt: r.Op == "GET" && strings.Contains(r.Key, "/read/")}
		}, "a GET right after a PUT does not have its value"},
		"has wrong bytes everywhere": {func(r s3test.Request) s3test.Fault { return s3test.Fault{Corrupt: r.Op == "GET"} },
			"cannot be used: a GET right after a PUT does not have its value"},
		"has wrong parts": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Corrupt: r.Op == "GET" && strings.Contains(r.Key, "/parts-")}
		}, torn},
		"has wrong ranges": {func(r s3test.Request) s3test.Fault {
			return s3test.Fault{Corrupt: r.Op == "GET" && strings.HasSuffix(r.Key, "/range")}
		}, "a GET with a Range does not have that part"},
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

// What is slow is not broken: racers whose requests arrive after all others.
func TestProbeSlow(t *testing.T) {
	t.Parallel()
	last, racers := make(chan struct{}), 0
	report, err := probe(t, s3test.Start(t), func(r s3test.Request) s3test.Fault {
		if r.Op != "PUT" || !strings.Contains(r.Key, "/race-0") {
			return s3test.Fault{}
		}
		switch racers++; racers {
		case 1, 2, 3:
			return s3test.Fault{Hold: last}
		case 16:
			close(last)
		}
		return s3test.Fault{}
	})
	if err != nil || report.Err() != nil || len(report.Weak) > 0 {
		t.Errorf("Probe = %+v, %v, want nothing broken", report, err)
	}
}

// A store that answers nothing is away, which is an error and no verdict about its promises.
func TestProbeSilent(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	end := make(chan struct{})
	defer close(end)
	server.Fail(func(r s3test.Request) s3test.Fault {
		if r.Op == "GET" {
			return s3test.Fault{Hold: end}
		}
		return s3test.Fault{}
	})
	db := open(t, options(server))
	db.Silence(50 * time.Millisecond)
	report, err := db.Probe(t.Context())
	if !errors.Is(err, storage.ErrAway) || report.Err() != nil {
		t.Errorf("Probe = %+v, %v, want ErrAway and nothing broken", report, err)
	}
}

// The refusal names the server software.
func TestProbeNamesServer(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.Name = "Liar/1.2 (test)"
	report, err := probe(t, server, func(s3test.Request) s3test.Fault { return s3test.Fault{Unconditional: true} })
	const says = `the object store ("Liar/1.2 (test)") cannot be shared by several replicas: `
	if err != nil || report.Server != server.Name || report.Err() == nil || !strings.HasPrefix(report.Err().Error(), says) {
		t.Errorf("Probe = %+v, %v, want %q", report, err, says)
	}
	report, err = probe(t, server, func(r s3test.Request) s3test.Fault { return s3test.Fault{Hidden: r.Op == "LIST"} })
	const unusable = `the object store ("Liar/1.2 (test)") cannot be used: `
	if err != nil || report.Err() == nil || !strings.HasPrefix(report.Err().Error(), unusable) {
		t.Errorf("Probe = %+v, %v, want %q", report, err, unusable)
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

// A probe removes what earlier ones have left that were killed, but not what one that still runs has, nor anything else.
func TestProbeSweeps(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	for _, key := range []string{"store/probe/OLD/a", "store/probe/OLD/b", "store/probe/RUNNING/a", "store/o/key"} {
		server.Change(key, func([]byte) []byte { return []byte("x") })
	}
	server.Age("store/probe/OLD/", 25*time.Hour)
	server.Age("store/probe/RUNNING/", time.Hour)
	server.Age("store/o/", 1000*time.Hour)
	if report, err := open(t, options(server)).Probe(t.Context()); err != nil || report.Err() != nil || report.Left != 0 {
		t.Errorf("Probe = %+v, %v", report, err)
	}
	if left := server.Keys(""); !slices.Equal(left, []string{"store/o/key", "store/probe/RUNNING/a"}) {
		t.Errorf("there is %q now", left)
	}
}
