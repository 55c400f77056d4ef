package s3

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// silence is how long connecting may take, and how long a small request may have no answer.
	silence = 20 * time.Second

	// smallRequest is the size of a body up to which a request is small.
	smallRequest = 1 << 20
)

// The weights of failures. When those in a row weigh patienceWeight, the store is away: one request at a time is sent,
// and all others fail at once. A store that is busy answers fast, and is asked more often.
const (
	patienceWeight    = 25
	busyWeight        = 1
	unreachableWeight = 5
	silentWeight      = 10
)

var (
	// errNotSent means that a request was not sent, because the store did not answer those before.
	errNotSent = errors.New("it did not answer the last requests, and this one was not sent")

	// errSilent means that a request has no answer.
	errSilent = errors.New("no answer in time")
)

// watch sees all requests to a store, and knows whether it answers.
type watch struct {
	requests *prometheus.CounterVec
	times    *prometheus.HistogramVec // by operation
	answers  prometheus.Gauge
	silence  time.Duration // how long a small request may have no answer

	mu     sync.Mutex
	weight int  // of the failures since the last answer
	trial  bool // a request is under way that is to find out whether the store is back
}

func newWatch() *watch {
	w := &watch{
		silence: silence,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_bucket_requests_total",
			Help: "Requests to the bucket, by operation (get, head, put, delete, list, upload) and result: ok, absent (there is no such key), condition (it does not hold), refused (another error of the request), busy (429 or 5xx), unreachable, silent (no answer in time), ended (the client left), unsent (the store did not answer the last ones).",
		}, []string{"operation", "result"}),
		times: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "assay_bucket_answer_seconds",
			Help:    "Time from a request to the bucket to the headers of its answer, or to its failure, by operation as in assay_bucket_requests_total. That of a put or an upload has its body.",
			Buckets: []float64{.003, .01, .03, .1, .3, 1, 3, 10, 30},
		}, []string{"operation"}),
		answers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_bucket_answers",
			Help: "Whether the object store of the bucket answers (1), or one request at a time is sent until it does (0).",
		}),
	}
	w.answers.Set(1)
	for _, operation := range []string{"get", "put", "list"} {
		w.requests.WithLabelValues(operation, "ok")
	}
	for _, result := range []string{"refused", "busy", "unreachable", "silent", "unsent"} {
		w.requests.WithLabelValues("get", result) // at 0, so that the first failure counts in a rate
	}
	return w
}

// away reports whether the store answers nothing.
func (w *watch) away() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.weight >= patienceWeight
}

// enter reports whether a request may be sent, and whether it is a trial.
func (w *watch) enter() (trial, may bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.weight < patienceWeight {
		return false, true
	}
	if w.trial {
		return false, false
	}
	w.trial = true
	return true, true
}

// leave notes the result of a request: the weight of a failure, 0 for an answer, or less if it says nothing.
func (w *watch) leave(trial bool, weight int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if trial {
		w.trial = false
	}
	switch {
	case weight == 0:
		w.weight = 0
	case weight > 0:
		w.weight = min(w.weight+weight, patienceWeight)
	}
	if w.weight < patienceWeight {
		w.answers.Set(1)
	} else {
		w.answers.Set(0)
	}
}

// watched is a client whose requests a watch sees.
type watched struct {
	client sdk.HTTPClient
	watch  *watch
}

func (c watched) Do(r *http.Request) (*http.Response, error) {
	trial, may := c.watch.enter()
	if !may {
		c.watch.requests.WithLabelValues(operation(r), "unsent").Inc()
		return nil, errNotSent
	}
	begin := time.Now()
	response, err := c.send(r)
	took := time.Since(begin)
	c.watch.times.WithLabelValues(operation(r)).Observe(took.Seconds())
	result, weight := c.watch.judge(r.Context(), took, response, err)
	c.watch.leave(trial, weight)
	c.watch.requests.WithLabelValues(operation(r), result).Inc()
	return response, err
}

// send sends a request. If it is small its answer must begin soon.
func (c watched) send(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost || r.ContentLength > smallRequest {
		return c.client.Do(r)
	}
	ctx, cancel := context.WithCancel(r.Context())
	silent := make(chan struct{})
	timer := time.AfterFunc(c.watch.silence, func() {
		close(silent)
		cancel()
	})
	response, err := c.client.Do(r.WithContext(ctx))
	if !timer.Stop() {
		<-silent
		if err == nil {
			_ = response.Body.Close()
		}
		if r.Context().Err() == nil {
			return nil, errSilent
		}
		return nil, r.Context().Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = &endingBody{response.Body, cancel}
	return response, nil
}

// endingBody ends the context of a request when its answer is closed.
type endingBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *endingBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// judge returns the result of a request that took so long, as a label, and its weight. A caller that had less time than
// a silent store has says nothing about the store.
func (w *watch) judge(ctx context.Context, took time.Duration, response *http.Response, err error) (result string, weight int) {
	switch {
	case errors.Is(err, errSilent):
		return "silent", silentWeight
	case err != nil && ctx.Err() != nil && (took < w.silence || errors.Is(ctx.Err(), context.Canceled)):
		return "ended", -1
	case err != nil && ctx.Err() != nil:
		return "silent", silentWeight
	case err != nil:
		return "unreachable", unreachableWeight
	}
	switch s := response.StatusCode; {
	case s < 400:
		return "ok", 0
	case s == http.StatusNotFound:
		return "absent", 0
	case s == http.StatusConflict, s == http.StatusPreconditionFailed:
		return "condition", 0
	case s == http.StatusTooManyRequests, s == http.StatusRequestTimeout, s >= 500 && s != http.StatusNotImplemented:
		return "busy", busyWeight
	}
	return "refused", 0
}

// operation returns what a request does, as a label.
func operation(r *http.Request) string {
	query := r.URL.Query()
	switch {
	case query.Has("uploads"), query.Has("uploadId"):
		return "upload"
	case query.Has("list-type"):
		return "list"
	case r.Method == http.MethodGet:
		return "get"
	case r.Method == http.MethodHead:
		return "head"
	case r.Method == http.MethodDelete:
		return "delete"
	}
	return "put"
}
