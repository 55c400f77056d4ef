package vcs

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
)

// gitProcess is a git process that was not started by another one.
type gitProcess struct {
	command string
	start   string // time, RFC 3339
	code    int    // exit status, or killed
	noFiles bool   // the commit has none in the requested directory
}

// killed is the status of a process that has not written the end of its trace.
const killed = -1

// transfers reports whether the process used the network.
func (p gitProcess) transfers() bool { return p.command == "fetch" || p.command == "ls-remote" }

// gitProcesses returns the processes of a trace (git's technical/api-trace2) as they
// began.
func gitProcesses(trace string) (all []gitProcess) {
	index := map[string]int{} // by the id of a process in the trace
	for event := range traceEvents(trace) {
		if strings.Contains(event.Sid, "/") { // started by another one
			continue
		}
		i, ok := index[event.Sid]
		if !ok {
			i = len(all)
			index[event.Sid], all = i, append(all, gitProcess{code: killed})
		}
		switch p := &all[i]; event.Event {
		case "start":
			p.start = event.Time
		case "cmd_name":
			p.command = event.Name
		case "error":
			p.noFiles = p.noFiles || event.Fmt == "pathspec '%s' did not match any files"
		case "exit":
			p.code = event.Code
		}
	}
	return all
}

// traceEvent is an event of git's trace, as far as it is used.
type traceEvent struct {
	Event, Sid, Time, Name, Msg, Fmt string
	Code                             int
}

// maxTrace is how much of a trace is read. A run has some thirty processes, of some
// kilobytes each.
const maxTrace = 32 << 20

// traceEvents yields the events in the trace of a run, those of its processes mixed.
func traceEvents(trace string) iter.Seq[traceEvent] {
	return func(yield func(traceEvent) bool) {
		f, err := os.Open(trace)
		if err != nil {
			return
		}
		defer f.Close()
		scanner := bufio.NewScanner(io.LimitReader(f, maxTrace))
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			var event traceEvent
			if json.Unmarshal(scanner.Bytes(), &event) == nil && !yield(event) {
				return
			}
		}
	}
}

// transfer is how the last git process ended that used the network.
type transfer uint8

const (
	transferNone transfer = iota
	transferWorked
	transferFailed
)

// lastTransfer reads git's trace.
func lastTransfer(trace string) transfer {
	all := slices.DeleteFunc(gitProcesses(trace), func(p gitProcess) bool { return !p.transfers() })
	if len(all) == 0 {
		return transferNone
	}
	last := slices.MaxFunc(all, func(a, b gitProcess) int { return cmp.Compare(a.start, b.start) })
	if last.code == 0 {
		return transferWorked
	}
	return transferFailed
}

// localFailure returns the error of a git process that did not use the network, and was
// killed, as the kernel does when memory is short, or could not make a zip of a commit that
// exists.
func localFailure(trace string) error {
	for _, p := range gitProcesses(trace) {
		switch {
		case p.command == "" || p.transfers():
		case p.code == killed:
			return fmt.Errorf("%w: git %s was killed", ErrTools, p.command)
		case p.code != 0 && p.command == "archive" && !p.noFiles:
			return fmt.Errorf("%w: git archive failed", ErrTools)
		}
	}
	return nil
}

// redirected returns the repository to which the host redirected git, "" if it did not.
// git warns of it, and the trace has the format of the warning, which is not translated.
func redirected(trace string) string {
	for event := range traceEvents(trace) {
		if target, ok := strings.CutPrefix(event.Msg, "redirecting to "); ok && event.Event == "error" && event.Fmt == "redirecting to %s" {
			return CanonicalRepository(target)
		}
	}
	return ""
}
