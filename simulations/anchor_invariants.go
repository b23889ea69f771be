package simulations

import (
	"errors"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// lookThrough takes down what the anchor holds of what users wrote.
func (a *anchor) lookThrough() {
	for _, e := range a.w.ledger.entries {
		if a.took[e.chunk] == nil && a.has(e.at.scope, e.at.log, e.counter, e.chunk) {
			a.took[e.chunk] = e
		}
	}
}

// checkKept is I-kept: what the anchor has held once it goes on to hold, or a checkpoint that stands for it.
func (a *anchor) checkKept(when string) {
	for _, e := range a.took {
		if !a.has(e.at.scope, e.at.log, e.counter, e.chunk) {
			a.w.fail("I-kept", "the anchor holds neither what %s wrote of %s nor what stands for it %s", e.device.name, e.ref, when)
			return
		}
	}
}

// verified is I-kept of what the anchor passes on: it is what a member wrote, in its place.
func (a *anchor) verified(scope trust.ScopeID, list []session.Item) {
	for _, it := range list {
		if chunk.IsSkip(it.Bytes) {
			skip, err := chunk.ParseSkip(it.Bytes)
			if err == nil && !skip.IsInPlace() {
				err = a.stand(skip)
			}
			if err != nil {
				a.w.fail("I-kept", "the anchor passes on a skip that nothing bears out: %v", err)
			}
			continue
		}
		sealed, err := chunk.Parse(it.Bytes)
		if err == nil {
			err = sealed.Verify(a.kept.State())
		}
		if a.w.cfg.Removals && errors.Is(err, chunk.ErrNotAllowed) {
			err = nil // its author belonged when it came
		}
		if err == nil && sealed.Header().Scope != scope {
			err = errors.New("it is of another scope")
		}
		if err != nil {
			a.w.fail("I-kept", "the anchor passes on what no member wrote: %v", err)
		}
	}
}

// stand returns nil if a checkpoint that the anchor holds stands for the chunks that a skip names.
func (a *anchor) stand(skip chunk.Skip) error {
	return a.view(func(v storage.Reader) error { return standsFor(v, skip.Scope, skip.Log, skip.Position()) })
}

// inStanding reports whether the anchor is one of the practice, by what is known to those who remain.
func (a *anchor) inStanding() bool {
	return slices.ContainsFunc(a.w.remaining(), func(d *device) bool { return d.replica != nil && d.replica.State().IsAnchor(a.id()) })
}

// checkSame is I-insync with the anchor: while both sides say that they are in sync, they claim the same.
func (w *World) checkSame(l *link) {
	a, b := l.ends[0].holder(), l.ends[1].holder()
	if a == nil || b == nil || !l.conn.sessions[0].Status().InSync || !l.conn.sessions[1].Status().InSync {
		return
	}
	w.checkClaims("I-insync", l.ends[0], l.ends[1])
}

// checkClaims checks that two claim to hold the same.
func (w *World) checkClaims(invariant string, x, y node) {
	a, b := x.holder(), y.holder()
	if a.State().HeadsHash() != b.State().HeadsHash() {
		w.fail(invariant, "%s and %s know different membership logs", x.called(), y.called())
		return
	}
	for _, s := range a.State().Scopes() {
		if !a.Vector(s.ID).Equal(b.Vector(s.ID)) || !maps.Equal(a.Forks(s.ID), b.Forks(s.ID)) {
			w.fail(invariant, "%s and %s claim to hold different chunks", x.called(), y.called())
		}
	}
}

// checkPacked is I-compact of the anchor at rest: nothing stands where a checkpoint stands for it, and where no disk went back, so that each
// log has one history, nothing is left that all devices have deleted.
func (a *anchor) checkPacked() {
	err := a.view(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(value)
			if err != nil {
				return err
			}
			h := sealed.Header()
			if standsFor(v, h.Scope, sealed.Log(), sealed.Position()) == nil {
				a.w.fail("I-compact", "the anchor holds chunk %v beside a skip that stands for it", sealed.ID())
			}
			kept := func(d *device) bool { _, ok := d.at(h.Scope, sealed.Log(), sealed.Position()); return ok }
			if a.w.report.Rollbacks+a.w.report.Clones == 0 && !slices.ContainsFunc(a.w.remaining(), kept) {
				a.w.fail("I-compact", "the anchor keeps chunk %v, which all devices have deleted", sealed.ID())
			}
			return nil
		})
	})
	if err != nil {
		a.w.fail("I-sound", "the anchor holds what is no chunk: %v", err)
	}
}

// checkAnchor is what must hold of the anchor at rest: it claims what the devices do and holds it, and a device that joins and reaches the
// anchor alone shows what the others do.
func (w *World) checkAnchor() {
	a := w.anchor
	if a == nil || !a.inStanding() {
		return
	}
	a.lookThrough()
	w.checkClaims("I-equal", w.remaining()[0], a)
	clear(a.checked)
	a.checkDurable(a.kept, "at rest")
	a.checkKept("at rest")
	for _, e := range w.ledger.entries {
		if e.acked && !e.gone && a.took[e.chunk] == nil {
			w.fail("I-acknowledged", "the anchor lacks what %s acknowledged: %s of %s", e.device.name, e.kind, e.ref)
		}
	}
	a.checkPacked()
	by := w.admitter()
	if w.failure != nil || by.replica == nil || !by.belongs(by) || by.unable() {
		return
	}
	fresh := w.join()
	if fresh == nil {
		return
	}
	w.note("%s joins, and reaches the anchor alone", fresh.name)
	to := &link{ends: [2]node{fresh, a}}
	w.net.links = append(w.net.links, to)
	w.heard(by, by)
	end := w.now.Add(healLimit)
	until := func(done func() bool) { w.run(func() bool { return done() || w.now.After(end) }) }
	until(func() bool { return a.kept != nil && a.kept.Admits(fresh.id()) })
	w.net.group[fresh], w.net.group[a] = 1, 1
	w.relink()
	until(func() bool {
		return to.conn != nil && to.conn.sessions[0].Status().Agreed && to.conn.sessions[1].Status().Agreed && fresh.replica.AtEnd()
	})
	w.checkLike("I-newcomer", "what comes from the anchor alone", by, fresh)
	w.report.Newcomers++
}
