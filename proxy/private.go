package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/sync/singleflight"

	"github.com/assay-proxy/assay/internal/memory"
	"github.com/assay-proxy/assay/proxy/modzip"
	"github.com/assay-proxy/assay/proxy/request"
	"github.com/assay-proxy/assay/proxy/vcs"
	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/sumdb/pinlog"
)

// errNoVCS says that version control is needed and off.
var errNoVCS = errors.New("fetching from version control is disabled")

// privatePlaces is how many private objects may be waited for at the same time.
// What really runs at the same time is bounded by the vcs.Source.
const privatePlaces = 256

// fillVersion fetches a version from version control, all three files of it at
// once: that is how the go command gives them. Fills of the other files share it. If
// what f shares began before f and finds nothing, it looks once more, see joinAnew.
func (s *Server) fillVersion(ctx context.Context, f *fill, reach vcs.Reach) error {
	begun, err := s.shareVersion(ctx, f, reach)
	if f.private && begun.Before(f.begun) && errors.Is(err, fs.ErrNotExist) {
		_, err = s.shareVersion(ctx, f, reach)
	}
	return err
}

// shareVersion fetches a version, or waits for who has begun to, and returns when
// that was.
func (s *Server) shareVersion(ctx context.Context, f *fill, reach vcs.Reach) (begun time.Time, err error) {
	req := f.req
	begun = time.Now()
	settings, err := s.still(req.Module, reach == vcs.Private)
	if err != nil {
		return begun, err
	}
	source := settings.vcs
	if source == nil {
		return begun, errNoVCS
	}
	if reach == vcs.Public {
		if err := s.mayGoDirect(ctx, settings, req.Module); err != nil {
			return begun, err
		}
	}
	s.running.Add(1) // by a fill, which is counted too
	done := s.versions.DoChan(fmt.Sprint(req.ModuleVersion(), " ", reach, " ", settings.number), func() (any, error) {
		begun := time.Now()
		site := siteOf(f.claim.Client())
		ctx, cancel := context.WithTimeout(memory.WithOwner(vcs.WithClient(s.ctx, site), site), zipFillTime)
		defer cancel()
		return begun, s.guard(req.Path(), func() error {
			return source.Download(ctx, req.ModuleVersion(), reach, func(files vcs.Files) error {
				return s.keepVersion(ctx, req, reach, files)
			})
		})
	})
	ended := make(chan singleflight.Result, 1)
	go func() {
		defer s.running.Done()
		ended <- <-done
	}()
	select {
	case r := <-ended:
		return r.Val.(time.Time), r.Err
	case <-ctx.Done():
		return begun, ctx.Err()
	}
}

// keepVersion proves what came from version control and stores it.
func (s *Server) keepVersion(ctx context.Context, req request.Request, reach vcs.Reach, files vcs.Files) error {
	version, err := parseInfo(files.Info)
	if err == nil && version != req.Version {
		err = fmt.Errorf("the info is of version %q", version)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errGarbage, files.Origin.URL, err)
	}
	content, err := os.Open(files.Zip)
	if err != nil {
		return fmt.Errorf("output of the go command: %v", err) // its absence is not the module's
	}
	defer content.Close()
	zip, err := s.hashZip(ctx, content)
	if err == nil {
		err = checkShape(content) // before it is pinned
	}
	if err == nil {
		err = s.checkMade(ctx, req.ModuleVersion(), files.Mod, content)
	}
	if errors.Is(err, modzip.ErrFormat) || errors.Is(err, modzip.ErrShape) {
		return fmt.Errorf("%w: %s: %w", errGarbage, files.Origin.URL, err)
	}
	if err != nil {
		return err
	}
	mod, err := hashMod(bytes.NewReader(files.Mod))
	if err != nil {
		return err
	}
	// Before it is pinned: what is in the log is learned at the next start without a bound.
	if err := s.noteRead(ctx, req.Module, reach, files.Place); err != nil {
		return err
	}
	prove := s.proveDirect
	if reach == vcs.Private {
		prove = s.pin
	}
	proof, err := prove(ctx, req, zip, mod, files.Origin)
	if err != nil {
		return err
	}
	return s.createVersion(ctx, req, reach, proof, zip, mod, files.Info, files.Mod, content)
}

// checkMade returns an error if mod is the go.mod that the go command makes for a module
// without one, and the zip has one: to the go command a git that was killed while it read
// the file, for want of memory for instance, is the same as one that found none.
func (s *Server) checkMade(ctx context.Context, of module.Version, mod []byte, zip *os.File) error {
	made := "module " + modfile.AutoQuote(of.Path) + "\n"
	if string(mod) != made {
		return nil
	}
	return s.withZip(ctx, zip, func(z *modzip.Zip) error {
		return z.Entries(func(e modzip.Entry) error {
			// The zip may have a carriage return, by .gitattributes.
			if e.Name == of.String()+"/go.mod" && e.Size != uint64(len(made)) && e.Size != uint64(len(made)+1) {
				return fmt.Errorf("%w: git did not print the module's go.mod", vcs.ErrTools)
			}
			return nil
		})
	})
}

// pin writes the hashes of a private version into our log, or compares them with
// what is there.
func (s *Server) pin(ctx context.Context, req request.Request, zip, mod string, origin vcs.Origin) (proof string, err error) {
	entry := pinlog.Entry{Module: req.ModuleVersion(), Zip: zip, Mod: mod, Origin: origin.String()}
	_, err = s.config.Log.Pin(ctx, entry)
	var changed *pinlog.ConflictError
	if errors.As(err, &changed) {
		s.noteChanged(changed)
		return "", changed
	}
	return s.config.Log.Name(), ownLogError(err)
}

// proveDirect compares a public version with the checksum database.
func (s *Server) proveDirect(ctx context.Context, req request.Request, zip, mod string, origin vcs.Origin) (proof string, err error) {
	for _, file := range []struct {
		kind request.Kind
		hash string
	}{{request.Zip, zip}, {request.Mod, mod}} {
		of := request.Request{Kind: file.kind, Module: req.Module, Version: req.Version}
		want, err := s.wanted(ctx, of)
		if err != nil {
			return "", err
		}
		if err := s.compare(of, origin.URL, file.hash, want); err != nil {
			return "", err
		}
		proof = s.proofName(want)
	}
	return proof, nil
}

// createVersion stores the files of a version.
func (s *Server) createVersion(ctx context.Context, req request.Request, reach vcs.Reach, proof, zip, mod string, info, goMod []byte, content *os.File) error {
	stat, err := content.Stat()
	if err != nil {
		return err
	}
	for _, file := range []struct {
		kind request.Kind
		hash string
		size int64
		data io.ReadSeeker
	}{
		{request.Zip, zip, stat.Size(), content},
		{request.Mod, mod, int64(len(goMod)), bytes.NewReader(goMod)},
		{request.Info, fmt.Sprintf("sha256:%x", sha256.Sum256(info)), int64(len(info)), bytes.NewReader(info)},
	} {
		if file.kind == request.Info && reach == vcs.Public {
			proof = "" // the checksum database does not cover it
		}
		of := request.Request{Kind: file.kind, Module: req.Module, Version: req.Version}
		if err := s.create(ctx, of, reach == vcs.Private, storage.Info{Size: file.size, Hash: file.hash, Proof: proof}, file.data); err != nil {
			return err
		}
	}
	return nil
}

// checked are the keys of private objects whose content this process has compared
// with the log.
type checked struct {
	mu   sync.Mutex
	keys map[checkedKey]struct{}
}

// checkedKey stands for a key, however long that is, in 16 bytes that no client can find
// another key for.
type checkedKey [16]byte

func checkedKeyOf(key string) checkedKey {
	sum := sha256.Sum256([]byte(key))
	return checkedKey(sum[:16])
}

// maxChecked bounds the memory to some 4 MiB, see maxAbsent; what is beyond it is compared again.
const maxChecked = 100000

func (c *checked) has(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.keys[checkedKeyOf(key)]
	return ok
}

func (c *checked) note(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil || len(c.keys) >= maxChecked {
		c.keys = map[checkedKey]struct{}{}
	}
	c.keys[checkedKeyOf(key)] = struct{}{}
}

// checkPinned checks a stored object of a private module, once in the life of this
// process: our log must have its hash, and its content must have it too, for who can
// write to the disk can write both the content and its hash. The log does not have an
// .info, see checkInfo. The object is then at its beginning. The error is
// fs.ErrNotExist if it is from the time when the module was public, or the log does not
// know it.
func (s *Server) checkPinned(req request.Request, key string, object storage.Object) error {
	info := object.Info()
	if info.Proof != s.config.Log.Name() {
		return fs.ErrNotExist
	}
	if s.checked.has(key) {
		return nil
	}
	if req.Kind == request.Info {
		err := checkInfo(req, object)
		if err == nil {
			s.checked.note(key)
		}
		return err
	}
	// Once for all who ask at the same time: a zip is copied for it.
	_, err, _ := s.checking.Do(key, func() (any, error) {
		if s.checked.has(key) {
			return nil, nil
		}
		err := s.compareWithLog(s.ctx, req, object)
		if err == nil {
			s.checked.note(key)
		}
		return nil, err
	})
	return err
}

// compareWithLog returns a *pinlog.ConflictError if an object is not what the log says.
func (s *Server) compareWithLog(ctx context.Context, req request.Request, object storage.Object) error {
	entry, err := s.config.Log.Find(req.ModuleVersion())
	if err != nil {
		return err
	}
	want := entry.Zip
	if req.Kind == request.Mod {
		want = entry.Mod
	}
	got := object.Info().Hash
	if got == want {
		if got, err = s.hashStored(ctx, req.Kind, object); err != nil {
			return err
		}
	}
	if got != want {
		changed := &pinlog.ConflictError{Have: entry, Got: entry}
		changed.Got.Origin, changed.Got.Time = "the proxy's own disk", time.Now()
		if req.Kind == request.Mod {
			changed.Got.Mod = got
		} else {
			changed.Got.Zip = got
		}
		s.noteChanged(changed)
		return changed
	}
	return nil
}

// checkInfo checks what can be checked of an .info, which the log does not have: that
// it is the one that was stored, and of the version that was asked for. If not, it is
// storage.ErrDamaged.
func checkInfo(req request.Request, object storage.Object) error {
	data, err := io.ReadAll(object)
	if err != nil {
		return err
	}
	if _, err := object.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if fmt.Sprintf("sha256:%x", sha256.Sum256(data)) != object.Info().Hash {
		return fmt.Errorf("%w: its hash does not match", storage.ErrDamaged)
	}
	if version, err := parseInfo(data); err != nil || version != req.Version {
		return fmt.Errorf("%w: the info is of version %q", storage.ErrDamaged, version)
	}
	return nil
}

// hashStored returns the hash of what is really stored.
func (s *Server) hashStored(ctx context.Context, kind request.Kind, object storage.Object) (string, error) {
	if kind == request.Mod {
		hash, err := hashMod(object)
		if err == nil {
			_, err = object.Seek(0, io.SeekStart)
		}
		return hash, err
	}
	spool, err := newSpool(s.config.Spool)
	if err != nil {
		return "", err
	}
	defer spool.release()
	if _, err := object.WriteTo(spool); err != nil {
		return "", err
	}
	if _, err := object.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	// A client waits for it: for the memory no longer than for any answer.
	wait, cancel := context.WithTimeout(ctx, s.config.Answer)
	defer cancel()
	hash := ""
	err = s.withZip(wait, spool.file, func(z *modzip.Zip) error {
		hash, err = z.Hash(ctx, s.scratch)
		return err
	})
	if errors.Is(err, modzip.ErrFormat) {
		return notZip(err), nil
	}
	return hash, err
}

// noteMoved warns if the tag of a private version is at another commit than when the
// version was pinned. Nobody is refused for it: whether the content is another one
// shows when it is fetched, and what is stored stays.
func (s *Server) noteMoved(modulePath string, now vcs.Info, reach vcs.Reach) {
	if reach != vcs.Private || now.Origin == nil || now.Origin.Hash == "" {
		return
	}
	entry, err := s.config.Log.Find(module.Version{Path: modulePath, Version: now.Version})
	if err != nil || entry.Origin == "" || strings.HasSuffix(entry.Origin, " "+now.Origin.Hash) {
		return
	}
	s.log.Warn("private tag moved; serving the pinned version", "module", modulePath, "version", now.Version,
		"first", entry.Origin, "now", now.Origin.String())
}

// noteChanged makes known that a private version is not what it was.
func (s *Server) noteChanged(changed *pinlog.ConflictError) {
	s.metrics.changed.Inc()
	name := changed.Have.Module.String() + "-" + changed.Got.Zip + changed.Got.Mod
	evidence, err := keepEvidence(s.config.Evidence, "changed", name, fmt.Sprintf(`a private version has changed
time:    %s
module:  %s
first:   %s
         zip %s
         go.mod %s
         %s
now:     zip %s
         go.mod %s
         %s

What was seen first stays: it is served, and nothing else. Find out who moved the tag,
or what happened to the disk.
`, time.Now().UTC().Format(time.RFC3339), changed.Have.Module, changed.Have.Time.Format(time.RFC3339),
		changed.Have.Zip, changed.Have.Mod, changed.Have.Origin, changed.Got.Zip, changed.Got.Mod, changed.Got.Origin))
	s.log.Error("private version changed", "module", changed.Have.Module.Path, "version", changed.Have.Module.Version,
		"err", changed, "evidence", evidence, "evidence_err", err)
}
