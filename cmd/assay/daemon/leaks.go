package daemon

import (
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"
)

// serveLeaks lists the clients that are not set up for private modules, for those
// who run the server. To others there is no such page.
func (s *server) serveLeaks(w http.ResponseWriter, r *http.Request) {
	if !s.operator(r) {
		s.proxy.ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		wrongMethod(w, r)
		return
	}
	var b strings.Builder
	b.WriteString("Clients that requested private names since the start, the latest first.\n" +
		"public_database: from a public checksum database; on the client, set GONOSUMDB, or GOSUMDB to the own log (assay key).\n" +
		"no_credential: a module restricted by access, without a credential; give the client a token (assay token create, assay goauth).\n\n")
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CLIENT\tKIND\tREQUESTS\tFIRST\tLAST\tMODULE")
	for _, leak := range s.proxy.Leaks() {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\n", leak.Client, leak.Kind, leak.Requests,
			leak.First.UTC().Format(time.RFC3339), leak.Last.UTC().Format(time.RFC3339), leak.Module)
	}
	_ = table.Flush() // into memory
	w.Header().Set("Cache-Control", "no-store")
	writeText(w, http.StatusOK, b.String())
}
