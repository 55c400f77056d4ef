package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/go-logr/logr"

	"github.com/assay-proxy/assay/internal/text"
)

// variable is two variables of the environment with the same meaning: the one for traces alone, and the one
// for all that OpenTelemetry exports.
type variable [2]string

var (
	traceEndpoint    = variable{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}
	traceProtocol    = variable{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"}
	traceHeaders     = variable{"OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"}
	traceInsecure    = variable{"OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"}
	traceCompression = variable{"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"}
	traceCertificate = variable{"OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"}
	traceKey         = variable{"OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"}
)

// value returns the value that counts, "" if there is none.
func (v variable) value() string {
	return cmp.Or(strings.TrimSpace(os.Getenv(v[0])), strings.TrimSpace(os.Getenv(v[1])))
}

// tracingWanted reports whether the environment asks for traces, see docs/monitoring.md. The error says
// what it asks for and does not get, without the values, which may be secrets.
func tracingWanted() (bool, error) {
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); {
	case strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true"), exporter == "none", exporter == "" && traceEndpoint.value() == "":
		return false, nil
	case exporter != "" && exporter != "otlp":
		return false, errors.New("OTEL_TRACES_EXPORTER is neither otlp nor none; correct it")
	}
	if protocol := traceProtocol.value(); protocol != "" && protocol != "http/protobuf" {
		return false, errors.New("OTEL_EXPORTER_OTLP_PROTOCOL is not http/protobuf, the only protocol of this program; set it, and the endpoint to the port of the collector for it, usually 4318")
	}
	if err := checkEndpoint(traceEndpoint.value(), traceInsecure.value()); err != nil {
		return false, err
	}
	for _, name := range traceHeaders {
		for entry := range strings.SplitSeq(os.Getenv(name), ",") {
			if strings.TrimSpace(entry) != "" && !strings.Contains(entry, "=") {
				return false, errors.New("an entry of " + name + " is not name=value; correct it")
			}
		}
	}
	// The library does not report these.
	if c := traceCompression.value(); c != "" && c != "gzip" && c != "none" {
		return false, errors.New("OTEL_EXPORTER_OTLP_COMPRESSION is neither gzip nor none; correct it")
	}
	for i, name := range traceCertificate {
		if key := traceKey[i]; (os.Getenv(name) == "") != (os.Getenv(key) == "") {
			return false, fmt.Errorf("of %s and %s one is not set; set both, or neither", name, key)
		}
	}
	return true, nil
}

// checkEndpoint returns an error if the URL of the collector cannot be used. insecure would count more than the
// scheme: spans and credentials would go to an https URL in clear.
func checkEndpoint(endpoint, insecure string) error {
	if endpoint == "" {
		return nil
	}
	at, err := url.Parse(endpoint)
	if err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" {
		return errors.New("OTEL_EXPORTER_OTLP_ENDPOINT is not an http or https URL; correct it")
	}
	if insecure != "" && strings.EqualFold(insecure, "true") != (at.Scheme == "http") {
		return errors.New("OTEL_EXPORTER_OTLP_INSECURE contradicts the scheme of OTEL_EXPORTER_OTLP_ENDPOINT; remove it")
	}
	return nil
}

// withoutHeaders returns the text of an error without the values of the headers that the exporter sends.
func withoutHeaders(err error) string {
	line := text.Line(err.Error())
	for _, name := range traceHeaders {
		for entry := range strings.SplitSeq(os.Getenv(name), ",") {
			_, value, _ := strings.Cut(entry, "=")
			value = strings.TrimSpace(value)
			plain, err := url.PathUnescape(value)
			if value == "" || err != nil {
				continue
			}
			line = strings.ReplaceAll(strings.ReplaceAll(line, value, "xxxxx"), plain, "xxxxx")
		}
	}
	return line
}

// ignored collects what OpenTelemetry's reader of the environment writes to its log about variables that it
// ignores. Its messages are constants. The values beside them are secrets, and are not read.
type ignored struct{ errs []error }

// Init implements logr.LogSink.
func (s *ignored) Init(logr.RuntimeInfo) {}

// Enabled implements logr.LogSink. The reader writes with level 4.
func (s *ignored) Enabled(level int) bool { return level <= 4 }

// notNumber is the message about a variable that must be a number, and is the only one about a variable that is
// no error for the library. The name of the variable follows.
const notNumber = "Got invalid value, number value expected."

// Info implements logr.LogSink.
func (s *ignored) Info(_ int, message string, values ...any) {
	if message == notNumber && len(values) > 0 {
		s.errs = append(s.errs, fmt.Errorf("%v is not a number; correct it", values[0]))
	}
}

// Error implements logr.LogSink.
func (s *ignored) Error(_ error, message string, _ ...any) {
	s.errs = append(s.errs, errors.New("a variable OTEL_EXPORTER_OTLP_* cannot be used ("+message+"); correct it"))
}

// WithValues implements logr.LogSink.
func (s *ignored) WithValues(...any) logr.LogSink { return s }

// WithName implements logr.LogSink.
func (s *ignored) WithName(string) logr.LogSink { return s }
