package daemon

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/assay-proxy/assay/internal/text"
	"github.com/assay-proxy/assay/proxy"
)

// leaksPage lists the clients that are not configured for private modules.
type leaksPage struct {
	operators *operators
	list      func(context.Context) ([]proxy.Leak, error)
	others    http.Handler // handles the requests of clients that must not see the page
}

// ServeHTTP lists the clients that are not configured for private modules, for administrators. For
// other clients the page does not exist.
func (p *leaksPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.operators.include(r) {
		p.others.ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		wrongMethod(w, r)
		return
	}
	leaks, err := p.list(r.Context())
	var b strings.Builder
	if err != nil {
		b.WriteString("The store does not answer, so this list lacks the clients of other replicas: " + text.Line(err.Error()) + "\n\n")
	}
	b.WriteString("Clients that requested private names since the start, the latest first.\n" +
		"public_database: from a public checksum database; on the client, set GONOSUMDB, or GOSUMDB to the own log (assay key).\n" +
		"no_credential: a module restricted by access, without a credential; give the client a token (assay token create, assay goauth).\n\n")
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CLIENT\tKIND\tREQUESTS\tFIRST\tLAST\tMODULE")
	for _, leak := range leaks {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\n", leak.Client, leak.Kind, leak.Requests,
			leak.First.UTC().Format(time.RFC3339), leak.Last.UTC().Format(time.RFC3339), leak.Module)
	}
	_ = table.Flush() // writes into memory
	w.Header().Set("Cache-Control", "no-store")
	writeText(w, http.StatusOK, b.String())
}
