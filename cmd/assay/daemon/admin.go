package daemon

import (
	"log/slog"
	"sync"

	"github.com/assay-proxy/assay/cmd/assay/admin"
)

// serveAdmin serves the administrator's commands on a socket in the data directory, until end is
// called. If the socket cannot be created, Assay serves clients without it.
func serveAdmin(server *admin.Server, running *sync.WaitGroup, log *slog.Logger) (end func()) {
	socket, err := admin.Listen(server)
	if err != nil {
		log.Warn("no socket for assay backup, ls, du, purge, compact and sumdb: they work only while the server is stopped", "err", err)
		return func() {}
	}
	running.Go(func() {
		if err := socket.Serve(); err != nil {
			log.Error("answering the commands of the administrator stopped", "err", err)
		}
	})
	return func() {
		if err := socket.Close(); err != nil {
			log.Warn("close the socket for the commands of the administrator", "err", err)
		}
	}
}
