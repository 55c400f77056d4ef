package daemon_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// The line of a request has the trace that a valid header traceparent names, without its other parts. Every
// other value is ignored, and none of its bytes is logged.
func TestTraceID(t *testing.T) {
	t.Parallel()
	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	cases := map[string]struct {
		headers []string
		want    string
	}{
		"none":          {nil, ""},
		"valid":         {[]string{"00-" + id + "-" + span + "-01"}, id},
		"not-sampled":   {[]string{"00-" + id + "-" + span + "-00"}, id},
		"next-version":  {[]string{"01-" + id + "-" + span + "-01-hunter2"}, id},
		"too-long":      {[]string{"00-" + id + "-" + span + "-01-hunter2"}, ""},
		"upper-case":    {[]string{"00-" + strings.ToUpper(id) + "-" + span + "-01"}, ""},
		"no-trace":      {[]string{"00-" + strings.Repeat("0", 32) + "-" + span + "-01"}, ""},
		"no-span":       {[]string{"00-" + id + "-" + strings.Repeat("0", 16) + "-01"}, ""},
		"ff":            {[]string{"ff-" + id + "-" + span + "-01"}, ""},
		"no-hex":        {[]string{"00-" + strings.Repeat("g", 32) + "-" + span + "-01"}, ""},
		"short":         {[]string{"00-" + id[:31] + "-" + span + "-01"}, ""},
		"twice":         {[]string{"00-" + id + "-" + span + "-01", "00-" + id + "-" + span + "-01"}, ""},
		"quote":         {[]string{`00-` + id[:30] + `"}` + "-" + span + "-01"}, ""},
		"long":          {[]string{strings.Repeat("hunter2 ", 1000)}, ""},
		"empty":         {[]string{""}, ""},
		"spaces-inside": {[]string{"00-" + id + " -" + span + "-01"}, ""},
	}
	for _, format := range []string{"text", "json"} {
		p := serveIn(t, "--data", t.TempDir(), "--upstream", "off", "--sumdb", "off", "--log-format", format)
		for name, c := range cases {
			r, err := http.NewRequest(http.MethodGet, p.url+"/livez", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Request-Id", name)
			r.Header["Traceparent"] = c.headers
			r.Header.Set("Tracestate", "vendor=hunter2")
			r.Header.Set("Baggage", "user=hunter2")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Traceparent") != "" {
				t.Errorf("%s: status %d, traceparent %q", name, resp.StatusCode, resp.Header.Get("Traceparent"))
			}
		}
		p.end()
		log := p.log.String()
		if strings.Contains(log, "hunter2") || strings.Contains(log, span) {
			t.Errorf("a part of a header is in the log:\n%s", log)
		}
		for name, c := range cases {
			if got := traceIn(t, log, format, name); got != c.want {
				t.Errorf("%s, %s: trace %q, want %q", format, name, got, c.want)
			}
		}
	}
}

// traceIn returns the trace in the only line of the log about a request.
func traceIn(t *testing.T, log, format, request string) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(log) {
		if format == "json" {
			var record struct {
				Msg, Request string
				TraceID      string `json:"trace_id"`
			}
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Errorf("%v: %s", err, line)
			}
			if record.Msg == "request" && record.Request == request {
				found = append(found, record.TraceID)
			}
			continue
		}
		if strings.Contains(line, " msg=request request="+request+" ") {
			_, trace, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " trace_id=")
			found = append(found, trace)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d lines about %s:\n%s", len(found), request, log)
	}
	return found[0]
}
