package content

import (
	"strconv"
	"time"

	"github.com/assay-proxy/assay/internal/bindings"
	"github.com/assay-proxy/assay/internal/flight"
	"github.com/assay-proxy/assay/proxy/content/gate"
	"github.com/assay-proxy/assay/proxy/vcs"
)

// snapshot is one set of settings, and the two origins that use it. The origins own their
// work under way and their memory: the work of an older snapshot ends by itself.
type snapshot struct {
	settings        *gate.Settings
	rules           *rules
	lookups         *lookups
	public, private *Origin
}

// origin chooses the origin of a module.
func (s *snapshot) origin(modulePath string) *Origin {
	if _, private := s.settings.Policy().Private(modulePath); private {
		return s.private
	}
	return s.public
}

// newSnapshot makes the origins for settings. now returns the snapshot in force.
func newSnapshot(p *parts, settings *gate.Settings, now func() *snapshot) *snapshot {
	s := &snapshot{settings: settings, rules: &rules{policy: settings.Policy(), bindings: p.replicas.facts.table, log: p.options.log}}
	current := func() *gate.Settings { return now().settings }
	b := builder{p, s, now}
	s.public = b.public(gate.Public(current, p.options.outside))
	s.private = b.private(gate.Private(current, p.options.outside))
	return s
}

// builder makes the origins of a snapshot.
type builder struct {
	parts    *parts
	snapshot *snapshot
	now      func() *snapshot
}

// publicMeanwhile is renewals.meanwhile for public modules.
const publicMeanwhile = 10 * time.Minute

func (b builder) public(g *gate.Gate) *Origin {
	p := b.parts
	absent := newAbsent(absentFor, maxAbsent-maxAbsentPrivate)
	b.snapshot.lookups = newLookups(p, absent)
	proof := newByDatabase(p, g, b.snapshot.lookups)
	o := b.origin(g, proof, publicPrefix)
	direct := b.repository(o, g, proof)
	direct.reach, direct.fact, direct.mayRead = vcs.Public, bindings.Fact{Public: true}, unprotected
	up := &upstreams{
		parts: p, settings: b.snapshot.settings, gate: g, proof: proof, shelf: o.shelf, answers: o.answers, direct: direct,
		infos:   &infoSource{parts: p, gate: g, shelf: o.shelf, forget: func(path string) { b.now().public.shelf.hot.remove(path) }},
		current: func(s *gate.Settings) bool { return b.now().settings == s },
	}
	up.recentlyFailed.Limit = maxRecentlyFailed
	registry := &publicRegistry{parts: p, gate: g, absent: absent, proof: proof}
	if len(p.options.mirrors) > 0 {
		registry.first = p.options.mirrors[0]
	}
	small := room{p.rooms.objects, smallFillTime, p.rooms.objectsAhead}
	o.audience, o.registry, o.source, o.absent = &everyone{b.snapshot.rules, proof.name != ""}, registry, up, absent
	o.fills = &fills{parts: p, shelf: o.shelf, source: up, group: flight.NewGroup[*fill](p.scope), small: small, zips: room{p.rooms.zips, zipFillTime, p.rooms.zipsAhead}, predicted: true, leased: true}
	o.renewals = &renewals{parts: p, source: up, answers: o.answers, absent: absent, group: flight.NewGroup[*Answer](p.scope), in: small, meanwhile: publicMeanwhile}
	o.inForce = func() *Origin { return b.now().public }
	o.Caching = Caching{
		Object: []string{"public, max-age=31536000, immutable"}, Answer: []string{"public, max-age=" + seconds(p.options.times.Fresh)},
		Record: "public, max-age=60", Errors: true,
	}
	return o
}

func (b builder) private(g *gate.Gate) *Origin {
	p := b.parts
	absent := newAbsent(absentPrivateFor, maxAbsentPrivate)
	proof := newByLog(p.pinned, p.replicas.facts, g, p.options.log)
	o := b.origin(g, proof, privatePrefix)
	repo := b.repository(o, g, proof)
	repo.reach, repo.fresh = vcs.Private, true
	all := room{p.rooms.private, zipFillTime, aheadRoom{pause: new(pause)}} // a repository may have to be cloned first
	audience := &members{rules: b.snapshot.rules, settings: b.snapshot.settings, gate: g, parts: p, absent: absent, pinned: p.pinned != nil}
	o.fills = &fills{parts: p, shelf: o.shelf, source: repo, group: flight.NewGroup[*fill](p.scope), small: all, zips: all, fresh: true}
	o.audience, o.registry, o.source, o.absent = audience, &privateRegistry{p, audience, o.fills}, repo, absent
	o.renewals = &renewals{parts: p, source: repo, answers: o.answers, absent: absent, group: flight.NewGroup[*Answer](p.scope), in: all}
	o.inForce = func() *Origin { return b.now().private }
	o.Caching = Caching{
		Object: []string{"private, max-age=31536000, immutable"}, Answer: []string{"private, no-cache"}, // otherwise a push would not be visible
		Record: "private, max-age=60",
	}
	return o
}

// origin makes the parts that both origins have.
func (b builder) origin(g *gate.Gate, proof proof, prefix string) *Origin {
	p := b.parts
	return &Origin{
		parts: p, gate: g,
		shelf:   &shelf{parts: p, gate: g, proof: proof, hot: newHot(int((p.options.memory.Hot - p.options.memory.Hot/knownShare) / 2))},
		answers: &answers{prefix: prefix, held: p.held, gate: g, log: p.options.log, reading: p.rooms.reading, replicas: p.replicas},
	}
}

// repository makes a source of modules from version control.
func (b builder) repository(o *Origin, g *gate.Gate, proof proof) *repository {
	return &repository{
		parts: b.parts, settings: b.snapshot.settings, gate: g, proof: proof, shelf: o.shelf, answers: o.answers,
		rules: func() *rules { return b.now().rules }, versions: flight.NewGroup[time.Time](b.parts.scope),
	}
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }
