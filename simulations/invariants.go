package simulations

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// checkAll looks after every step for what must always hold.
func (w *World) checkAll() {
	for _, d := range w.devices {
		if d.replica != nil {
			d.checkDurable(d.replica, "between two steps")
			d.checkLogs()
		}
	}
	if a := w.anchor; a != nil && a.kept != nil {
		a.checkDurable(a.kept, "between two steps")
	}
	for _, l := range w.net.links {
		w.checkInSync(l)
	}
}

// checkDurable is I-durable: the vector names nothing that a crash at this moment would lose.
func (k *disk) checkDurable(h holder, when string) {
	st := h.State()
	if st == nil {
		return
	}
	for _, s := range st.Scopes() {
		v := h.Vector(s.ID)
		if k.checked[s.ID] == nil {
			k.checked[s.ID] = chunk.Vector{}
		}
		forks := h.Forks(s.ID)
		for log, p := range v {
			have := k.checked[s.ID][log].Counter
			if _, forked := forks[log]; forked && p != k.checked[s.ID][log] {
				have = 0
			} else if p.Counter <= have {
				continue
			}
			if err := k.holds(s.ID, log, have, p); err != nil {
				k.w.fail("I-durable", "%s claims chunk %d of a log %s: %v", k.name, p.Counter, when, err)
				return
			}
			k.checked[s.ID][log] = p
		}
	}
}

// holds reports whether the chunks after+1 to to are durable, each with the one before it.
func (k *disk) holds(scope trust.ScopeID, log chunk.LogID, after uint64, to chunk.Position) error {
	for p := to; p.Counter > after; {
		if sealed, ok := k.at(scope, log, p); ok {
			p = chunk.At(p.Counter-1, sealed.Header().Previous)
			continue
		}
		var skip chunk.Skip
		var run chunk.Covered
		err := k.view(func(v storage.Reader) (err error) {
			skip, run, err = heldBySkip(v, scope, log, p.Counter)
			return err
		})
		if err != nil {
			return fmt.Errorf("chunk %d: %w", p.Counter, err)
		}
		if tip, ok := run.TipAt(p.Counter); !ok || tip != p.Tip {
			return errors.New("a skip stands for another chunk")
		}
		if skip.From-1 <= after {
			return nil
		}
		before, ok := run.TipAt(skip.From - 1)
		if !ok {
			return fmt.Errorf("chunk %d is not there", skip.From-1)
		}
		p = chunk.Position{Counter: skip.From - 1, Tip: before}
	}
	return nil
}

// positionOf returns where a log stands after an item.
func positionOf(it session.Item) (chunk.Position, error) {
	if it.Skip || chunk.IsSkip(it.Bytes) {
		skip, err := chunk.ParseSkip(it.Bytes)
		return skip.Position(), err
	}
	sealed, err := chunk.Parse(it.Bytes)
	if err != nil {
		return chunk.Position{}, err
	}
	return sealed.Position(), nil
}

// standsFor returns nil if a skip stands for the very chunk at a position.
func standsFor(v storage.Reader, scope trust.ScopeID, log chunk.LogID, p chunk.Position) error {
	_, run, err := heldBySkip(v, scope, log, p.Counter)
	if tip, ok := run.TipAt(p.Counter); err == nil && (!ok || tip != p.Tip) {
		err = storage.ErrNotFound
	}
	return err
}

// heldBySkip returns the skip that stands for a chunk at a counter and the run that it stands for, if its checkpoint, or a later
// one that stands for that, is durable too and says that it covers it, and the word of the device whose log it is.
func heldBySkip(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (skip chunk.Skip, run chunk.Covered, err error) {
	if skip, err = skipOver(v, scope, log, counter); err != nil {
		return skip, run, err
	}
	sealed, err := lastCheckpoint(v, scope, skip.Checkpoint)
	if err != nil {
		return skip, run, fmt.Errorf("checkpoint of a skip: %w", err)
	}
	covers, err := sealed.Covers()
	run, ok := covers.Find(log, counter)
	if err == nil && !ok {
		err = errors.New("a skip's checkpoint does not cover it")
	}
	if err == nil && sealed.Header().Device != skip.Key.Device {
		err = heldWord(v, skip)
	}
	return skip, run, err
}

func skipOver(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (skip chunk.Skip, err error) {
	err = storage.ErrNotFound
	scan := v.Scan(storage.Skip.With2(scope, log), storage.Skip.Key(scope, log, counter), func(_, value []byte) error {
		if skip, err = chunk.ParseSkip(value); err == nil && skip.From > counter {
			err = storage.ErrNotFound
		}
		return storage.ErrStop
	})
	return skip, errors.Join(err, scan)
}

// lastCheckpoint returns a checkpoint, or the one that stands for it since it was packed itself.
func lastCheckpoint(v storage.Reader, scope trust.ScopeID, at chunk.Place) (chunk.Sealed, error) {
	for _, key := range [][]byte{
		storage.Chunk.Key(scope, at.Log, at.Counter), storage.Branch.Key(scope, at.Log, at.Counter, at.ID),
		storage.Loose.Key(scope, at.Log, at.Counter, at.ID),
	} {
		b, err := v.Get(key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return chunk.Sealed{}, err
		}
		if sealed, err := chunk.Parse(b); err != nil || sealed.ID() == at.ID {
			return sealed, err
		}
	}
	skip, err := skipOver(v, scope, at.Log, at.Counter)
	if err != nil {
		return chunk.Sealed{}, err
	}
	later, err := lastCheckpoint(v, scope, skip.Checkpoint)
	if err != nil {
		return chunk.Sealed{}, err
	}
	covers, err := later.Covers()
	if err != nil {
		return chunk.Sealed{}, err
	}
	run, _ := covers.Find(at.Log, at.Counter)
	if tip, ok := run.TipAt(at.Counter); !ok || tip != chunk.At(at.Counter, at.ID).Tip {
		return chunk.Sealed{}, errors.New("another chunk stands in the place of a skip's checkpoint")
	}
	return later, nil
}

// heldWord reports whether a skip's word is durable, good, and by the device whose log it is.
func heldWord(v storage.Reader, skip chunk.Skip) error {
	at := skip.Word
	for _, key := range [][]byte{
		storage.Chunk.Key(skip.Scope, at.Log, at.Counter), storage.Branch.Key(skip.Scope, at.Log, at.Counter, at.ID),
		storage.Loose.Key(skip.Scope, at.Log, at.Counter, at.ID),
	} {
		b, err := v.Get(key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("word of a skip: %w", err)
		}
		sealed, err := chunk.Parse(b)
		if err != nil {
			return err
		}
		if sealed.ID() != at.ID {
			continue
		}
		on, good, err := sealed.Verdict()
		if err == nil && (!good || on != skip.Checkpoint || sealed.Header().Device != skip.Key.Device) {
			err = errors.New("a skip's word is not its author's good word on its checkpoint")
		}
		return err
	}
	return errors.New("a skip's word is not there")
}

// checkTold is I-durable over a crash: who comes back holds what it told its peers before.
func (k *disk) checkTold(h holder) {
	for scope, told := range k.told {
		for _, log := range told.Logs() {
			if !k.stands(scope, log, told[log]) {
				k.w.fail("I-durable", "%s told its peers of %d chunks of %v and came back with %d",
					k.name, told[log].Counter, log, h.Vector(scope)[log].Counter)
			}
		}
	}
}

// checkInSync is I-insync: while both sides say that they are in sync and have applied all, both show the same.
func (w *World) checkInSync(l *link) {
	if l.conn == nil || w.failure != nil {
		return
	}
	a, b := l.devices()[0], l.devices()[1]
	if a == nil {
		w.checkSame(l)
		return
	}
	if a.replica == nil || b.replica == nil || a.digested == a.generation && b.digested == b.generation && a.digest == b.digest {
		return
	}
	if !l.conn.sessions[0].Status().InSync || !l.conn.sessions[1].Status().InSync ||
		!a.replica.AtEnd() || !b.replica.AtEnd() {
		return
	}
	if w.cfg.Removals && a.replica.Status().Parked+b.replica.Status().Parked > 0 {
		return // one waits for a key, until somebody joins an epoch to those that are read
	}
	if a.shows() != b.shows() {
		w.fail("I-insync", "%s and %s are in sync and show different things:\n%s", a.name, b.name, difference(a, b))
	}
}

// shows returns a hash of all that the device shows.
func (d *device) shows() string {
	if d.digested != d.generation {
		d.w.report.Digests++
		sum := sha256.Sum256([]byte(d.transcript()))
		d.digest, d.digested = string(sum[:]), d.generation
	}
	return d.digest
}

// transcript is everything that a device shows, as text.
func (d *device) transcript() string {
	var b bytes.Buffer
	if err := d.replica.Export(d.w.ctx, &b, api.ExportOptions{}); err != nil {
		d.w.fail("I-sound", "%s cannot export: %v", d.name, err)
	}
	list, err := d.replica.Conflicts(d.w.ctx)
	if err != nil {
		d.w.fail("I-sound", "%s cannot list conflicts: %v", d.name, err)
	}
	for _, c := range list {
		fmt.Fprintf(&b, "conflict %s in %s %q, shown %d\n", c.ID, c.Resource, c.Path, c.Shown)
		for _, v := range c.Values {
			fmt.Fprintf(&b, "  %s removed=%v by %s at %s on %d\n", v.Value, v.Removed, v.Author, v.Device, v.Time.UnixMilli())
		}
	}
	b.WriteString(d.heldList())
	return b.String()
}

// heldList is what a device holds and has not applied, and why. A change that lost its place is held at what it came with, its
// own chunk or a checkpoint that brings several: of these only that there are any is compared. So it is with what a removed
// device wrote.
func (d *device) heldList() string {
	lines := map[string]bool{}
	held, err := d.replica.Held(1000)
	if err != nil {
		d.w.fail("I-sound", "%s cannot list held chunks: %v", d.name, err)
	}
	for _, h := range held {
		line := fmt.Sprintf("held %v by %s: %v, %s\n", h.Chunk, d.w.deviceOf(h.Device), h.State, h.Reason)
		if strings.HasPrefix(h.Reason, "its author wrote two changes") || strings.HasPrefix(h.Reason, "it builds on a change that is quarantined") {
			line = "changes have lost their place\n"
		}
		if strings.HasPrefix(h.Reason, "its author had been removed") {
			line = "changes of removed devices\n"
		}
		lines[line] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(lines)), "")
}

// difference returns the first lines in which two devices differ.
func difference(a, b *device) string {
	x, y := strings.Split(a.transcript(), "\n"), strings.Split(b.transcript(), "\n")
	for i := range max(len(x), len(y)) {
		var p, q string
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		if p != q {
			return fmt.Sprintf("%s: %s\n%s: %s", a.name, p, b.name, q)
		}
	}
	return "nothing"
}

// checkRest checks what must hold when everything has arrived everywhere.
func (w *World) checkRest() {
	w.report.Changes = len(w.ledger.entries)
	w.judgeGone()
	for _, check := range []func(){w.checkMembers, w.checkKeys} {
		if w.failure == nil {
			check()
		}
	}
	if w.failure != nil {
		return
	}
	for _, check := range []func(){w.checkEqual, w.checkAcknowledged, w.checkVisible, w.checkWhole, w.checkRestart, w.checkAnchor, w.checkOrder} {
		if w.failure == nil {
			check()
		}
	}
}

// checkEqual is I-equal: all devices show the same, hold the same and have applied the same.
func (w *World) checkEqual() {
	a := w.remaining()[0]
	for _, b := range w.remaining()[1:] {
		if a.shows() != b.shows() {
			w.fail("I-equal", "%s and %s differ:\n%s", a.name, b.name, difference(a, b))
		}
		for _, s := range a.replica.State().Scopes() {
			if !a.replica.Vector(s.ID).Equal(b.replica.Vector(s.ID)) {
				w.fail("I-equal", "%s and %s hold different chunks", a.name, b.name)
			}
		}
		ha, hb := a.replica.Hello(b.keys.Device()), b.replica.Hello(a.keys.Device())
		for i := range ha.Scopes {
			if len(hb.Scopes) != len(ha.Scopes) || ha.Scopes[i] != hb.Scopes[i] {
				w.fail("I-equal", "%s and %s have applied different changes", a.name, b.name)
			}
		}
	}
}

// checkAcknowledged is I-acknowledged: what was acknowledged is applied everywhere. In these worlds nobody is hostile, so
// nothing is held either.
func (w *World) checkAcknowledged() {
	barred := slices.ContainsFunc(w.ledger.entries, func(e *entry) bool { return e.barred })
	for _, d := range w.remaining() {
		if st := d.replica.Status(); st.Parked != w.parkedFor(d) || st.Unapplied > 0 || (st.Quarantined > 0) != barred || !st.AtEnd {
			w.fail("I-acknowledged", "%s holds what it has not applied: %+v\n%s", d.name, st, d.heldList())
		}
		for _, e := range w.ledger.entries {
			if e.acked && !e.gone && !d.has(e.at.scope, e.at.log, e.counter, e.chunk) {
				w.fail("I-acknowledged", "%s lacks what %s acknowledged: %s of %s", d.name, e.device.name, e.kind, e.ref)
			}
		}
		for _, s := range d.replica.Hello(w.remaining()[0].keys.Device()).Scopes {
			var set chunk.SetHash
			for doc, h := range w.ledger.docs {
				if w.ledger.scopes[doc] != s.Scope {
					continue
				}
				for _, c := range h.standing() {
					set.Add(c.Hash)
				}
			}
			if s.Applied != set.Sum() {
				w.fail("I-acknowledged", "%s has not applied exactly what was written", d.name)
			}
		}
	}
}

// checkVisible is I-visible: each value that was written is shown, or listed in a conflict, or was replaced by somebody
// who had seen it; each removal holds, or is listed, or was undone by somebody who had seen it.
func (w *World) checkVisible() {
	d := w.remaining()[0]
	for _, ref := range w.ledger.refs() {
		entries := w.ledger.byRef[ref]
		shown, conflicts := d.look(ref)
		w.report.Conflicts += len(conflicts)
		for _, e := range entries {
			if e.gone {
				continue
			}
			for _, t := range w.ledger.introduced(e) {
				if !strings.Contains(shown, t) && !listed(conflicts, t) && !w.answered(e, t) {
					w.fail("I-visible", "%s, written to %s by %s (%s), is neither shown nor listed, and nobody who saw it replaced it%s",
						t, ref, e.device.name, e.kind, w.ledger.story(ref))
				}
			}
			if e.kind == kindDelete && shown != "" && !w.undone(e) && !listsRemoval(conflicts) {
				w.fail("I-visible", "the removal of %s by %s is neither shown nor listed, and nobody who saw it undid it%s",
					ref, e.device.name, w.ledger.story(ref))
			}
		}
	}
}

func listed(conflicts []api.Conflict, token string) bool {
	for _, c := range conflicts {
		if inConflict(c, token) {
			return true
		}
	}
	return false
}

func listsRemoval(conflicts []api.Conflict) bool {
	for _, c := range conflicts {
		for _, v := range c.Values {
			if v.Removed {
				return true
			}
		}
	}
	return false
}

// answered reports whether somebody who had seen a token took it away, as it was written first, anew, or alike by another
// whose value somebody saw as one with it.
func (w *World) answered(e *entry, token string) bool {
	list := w.ledger.byRef[e.ref]
	replaced := func(p *entry) bool {
		return slices.ContainsFunc(list, func(o *entry) bool { return !o.gone && w.ledger.replaced(o, p, token) })
	}
	for p := e.origin; p != nil; p = p.origin {
		if replaced(p) {
			return true
		}
	}
	same := []*entry{e}
	for i := 0; i < len(same); i++ {
		if replaced(same[i]) {
			return true
		}
		next := slices.Clone(same[i].anew)
		for _, o := range list {
			if !o.gone {
				next = append(next, w.ledger.merged(o, same[i], token)...)
			}
		}
		for _, n := range next {
			if !slices.Contains(same, n) {
				same = append(same, n)
			}
		}
	}
	return false
}

// undone reports whether somebody who had seen a removal wrote the resource again, or decided about it.
func (w *World) undone(e *entry) bool {
	for _, o := range w.ledger.byRef[e.ref] {
		if o.kind != kindDelete && w.ledger.saw(o, e) {
			return true
		}
	}
	return slices.ContainsFunc(e.anew, w.undone)
}

// checkWhole is I-whole: every quantity shown is one that somebody wrote, never halves of two.
func (w *World) checkWhole() {
	for _, ref := range w.ledger.refs() {
		shown, _ := w.remaining()[0].look(ref)
		for _, q := range wholes(shown) {
			if !w.ledger.wholes[q] {
				w.fail("I-whole", "%s shows %s, which nobody wrote", ref, q)
			}
		}
	}
}

// checkRestart is I-durable once more: a device that starts anew on what is durable shows what it showed before.
func (w *World) checkRestart() {
	d := w.remaining()[w.rng.IntN(len(w.remaining()))]
	was := d.shows()
	d.fall()
	d.restart()
	if w.failure == nil && d.shows() != was {
		w.fail("I-durable", "%s shows something else after a restart", d.name)
	}
}
