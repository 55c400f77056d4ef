package daemon

import (
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"

	"github.com/assay-proxy/assay/cmd/assay/config"
	"github.com/assay-proxy/assay/proxy/proxytest"
)

// A reload replaces the settings as one value, so that everything that depends on them changes at
// once. A refused reload, whatever its error, leaves the very same value in force.
func TestReloadReplacesSettings(t *testing.T) {
	t.Parallel()
	world := proxytest.New(t)
	c, _, err := config.Load(pflag.NewFlagSet("", pflag.ContinueOnError), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	c.Listen, c.Data, c.Upstream, c.SumDB, c.Private, c.VCS = "127.0.0.1:0", t.TempDir(), world.URL("ok"), world.GOSUMDB(), "corp.example", "off"
	next, loadErr := c, error(nil)
	d := newDaemon(c, io.Discard)
	defer d.log.Close()
	if err := d.listen(1000, nil); err != nil {
		t.Fatal(err)
	}
	defer d.listener.Close()
	load := func() (config.Config, config.Sources, error) { return next, config.Sources{}, loadErr }
	if err := d.open(t.Context(), Options{Load: load}, config.Sources{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.proxy.Close(t.Context()); err != nil {
			t.Error(err)
		}
		d.close()
	}()
	database := d.stores.mirrors[0].Name()
	type readers struct {
		permits, fetches, logsAccess bool
		level                        slog.Level
	}
	read := func() readers {
		return readers{
			d.current.permit("new.example/x") == nil, d.current.fetchFrom(database)() != nil, d.current.accessLog() == 1, d.current.Level(),
		}
	}
	before, readBefore := d.current.load(), read()
	if want := (readers{true, true, true, slog.LevelInfo}); readBefore != want {
		t.Fatalf("at the start: %+v, want %+v", readBefore, want)
	}

	c.Upstream, c.Private, c.LogLevel, c.AccessLog = "off", "corp.example,new.example", "debug", false
	for name, spoil := range map[string]func(){
		"the file":        func() { loadErr = errors.New("it is no TOML") },
		"a setting":       func() { next.Access = "nonsense" },
		"a file of later": func() { next.HookSecret = filepath.Join(t.TempDir(), "none") },
		"the upstream":    func() { next.Upstream, next.CAFile = world.URL("ok"), filepath.Join(t.TempDir(), "none") },
	} {
		next, loadErr = c, nil
		spoil()
		if err := d.reloader.reload(t.Context()); err == nil {
			t.Errorf("%s is wrong, and the reload is not refused", name)
		}
		if d.current.load() != before || read() != readBefore {
			t.Errorf("%s is wrong, and the reload has changed something: %+v", name, read())
		}
	}
	next, loadErr = c, nil
	if err := d.reloader.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := (readers{false, false, false, slog.LevelDebug}); read() != want {
		t.Errorf("after the reload: %+v, want %+v", read(), want)
	}
}
