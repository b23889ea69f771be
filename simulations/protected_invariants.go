package simulations

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/lockquorum"
	"chartmesh/storage"
)

// agree (I-insync): devices that hold the same chunks and have looked at all of them have applied the same.
func (w *protectedWorld) agree() {
	for i, a := range w.sites {
		for _, b := range w.sites[:i] {
			if !a.replica.AtEnd() || !b.replica.AtEnd() {
				continue
			}
			x, y := a.replica.Hello(b.keys.Device()), b.replica.Hello(a.keys.Device())
			for n := range x.Scopes {
				if x.Scopes[n].VectorHash != y.Scopes[n].VectorHash {
					continue
				}
				w.report.Agreed++
				if x.Scopes[n].Applied != y.Scopes[n].Applied {
					w.fail("I-insync", "%s and %s hold the same and have applied different changes", a.name, b.name)
				}
			}
		}
	}
}

// kept: what a device has accepted stays accepted, unless a break took heads back or a voter lied; a certificate that comes before its changes takes nothing away.
func (w *protectedWorld) kept() {
	for _, s := range w.sites {
		n := 0
		w.must("count", s.twin.View(func(v storage.Reader) error {
			if err := v.Keys(storage.Overlay.All(), nil, func([]byte) error { n--; return nil }); err != nil {
				return err
			}
			return v.Keys(storage.Change.All(), nil, func([]byte) error { n++; return nil })
		}))
		if n < s.accepted && w.report.Back == 0 && !w.cfg.Liar {
			w.fail("I-shrunk", "%s accepted %d changes, and now %d", s.name, s.accepted, n)
		}
		s.accepted = n
	}
}

// rest ends all leases, has everybody hear all, and asks what must hold then.
func (w *protectedWorld) rest() {
	for _, lock := range protectedLocks {
		if at, ok := w.st.Lease(w.names.Lock(lock)); ok && at.Holder != (lockquorum.DeviceID{}) {
			w.do(lockquorum.SessionID{}, 0, &lockquorum.Break{Lock: w.names.Lock(lock), Token: at.Token})
		}
	}
	w.meetAll(w.sites)
	// Somebody hears how it ended; all that is certified is here.
	for _, lock := range protectedLocks {
		for n := range 4 {
			_, id, err := w.sites[0].replica.ProtectedDocument(lock, w.ref(lock, n).key())
			w.must("place", err)
			before := w.report.Unresolved
			w.certifyNamed(w.sites[0], lock, w.names.Document(id))
			if w.report.Unresolved > before {
				w.fail("I-certified", "nobody can tell what is certified of %s", w.ref(lock, n).key())
			}
		}
	}
	w.meetAll(append(slices.Clone(w.sites), w.last))
	if w.failure != nil {
		return
	}
	w.equal()
	if !w.cfg.Liar {
		w.certified()
	}
	w.onTop()
	if w.cfg.Seed%2 == 0 { // what is packed is deleted
		for range 3 {
			for _, s := range w.sites {
				w.compact(s)
			}
			if w.cfg.Liar {
				w.agreeForged()
			}
			w.meetAll(append(slices.Clone(w.sites), w.last))
		}
		w.countPacked()
		for range w.rng.IntN(4) {
			if w.cfg.Liar { // about what is packed
				w.lie()
			}
		}
		w.meetAll(append(slices.Clone(w.sites), w.last))
		w.joined = true // who comes now gets the checkpoints
		w.meetAll([]*site{w.sites[0], w.newcomer})
		w.equal()
		if !w.cfg.Liar {
			w.certified()
		}
	}
	for _, s := range w.hearing() {
		s.twin = s.twin.Crash()
		s.open()
		for w.apply(s, 10) {
		}
	}
	w.equal()
}

// hearing are the devices that have heard of all.
func (w *protectedWorld) hearing() []*site {
	all := append(slices.Clone(w.sites), w.last)
	if w.joined {
		all = append(all, w.newcomer)
	}
	return all
}

// countPacked counts what was packed of what could not be before certificates were.
func (w *protectedWorld) countPacked() {
	stored, packs := 0, map[crdt.DocumentID]bool{}
	w.must("count", w.sites[0].twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(append([]byte(nil), value...))
			if err != nil {
				return err
			}
			switch sealed.Header().Kind {
			case chunk.KindCertificate:
				stored++
			case chunk.KindCheckpoint:
				body, err := chunk.Open(w.sites[0].keys, sealed)
				if err != nil {
					return err
				}
				packs[body.DocumentID()] = true
			}
			return nil
		})
	}))
	w.report.Packed = w.certificates + w.report.Lies - stored
	held, beside := w.held(w.sites[0]), map[crdt.DocumentID]bool{}
	for _, c := range w.changes {
		if packs[c.doc] && strings.HasPrefix(held[names8(c.chunk)], "quarantined") {
			beside[c.doc] = true
		}
	}
	w.report.Beside = len(beside)
}

func (w *protectedWorld) meetAll(sites []*site) {
	for range 6 {
		for _, i := range w.rng.Perm(len(sites)) {
			for _, j := range w.rng.Perm(i) {
				for tries := 0; !w.meet(sites[i], sites[j], 2000) && w.failure == nil; tries++ {
					if tries == 20 {
						w.fail("I-equal", "%s and %s do not come to rest", sites[i].name, sites[j].name)
					}
				}
			}
		}
	}
}

// equal (I-equal, I3): all hold, show and have applied the same, whatever order it came in.
func (w *protectedWorld) equal() {
	all := w.hearing()
	first := w.shown(w.last) // which wrote nothing
	for _, s := range all {
		if w.overlaid(s) {
			if !w.cfg.Liar { // whose word may leave something pending for good
				w.fail("I-late", "%s still shows what it did not commit", s.name)
			}
		} else if got := w.shown(s); got != first {
			w.fail("I-equal", "%s has\n%s\nand %s\n%s", w.last.name, first, s.name, got)
		} else if h, x, y := w.apart(w.last, s); x != y {
			w.fail("I-equal", "of change %v %s says %q, and %s %q", h, w.last.name, x, s.name, y)
		}
		x, y := all[0].replica.Hello(s.keys.Device()), s.replica.Hello(all[0].keys.Device())
		for n := range x.Scopes {
			if x.Scopes[n] != y.Scopes[n] {
				w.fail("I-equal", "%s and %s hold or applied different chunks", all[0].name, s.name)
			}
		}
	}
	for _, s := range all {
		report, err := s.replica.Verify(w.ctx, api.VerifyOptions{}, func(api.VerifyProgress) {})
		w.must("verify", err)
		if !report.Clean {
			w.fail("I-equal", "%s: %v", s.name, report.Findings)
		}
	}
}

// overlaid reports whether a device shows something of its own that is not committed.
func (w *protectedWorld) overlaid(s *site) (found bool) {
	w.must("read", s.twin.View(func(v storage.Reader) error {
		return v.Keys(storage.Overlay.All(), nil, func([]byte) error { found = true; return storage.ErrStop })
	}))
	return found
}

// shown is what a device shows and holds back, without what is of it alone.
func (w *protectedWorld) shown(s *site) string {
	var out bytes.Buffer
	w.must("export", s.replica.Export(w.ctx, &out, api.ExportOptions{}))
	list, err := s.replica.Conflicts(w.ctx)
	w.must("conflicts", err)
	_, _ = fmt.Fprintf(&out, "%+v\n", list)
	return out.String()
}

// packed stands for the state of a change that a device may know by a checkpoint alone, which is held for all of its changes.
const packed = "packed"

// apart returns a change of which two devices say different things, with both.
func (w *protectedWorld) apart(a, b *site) (h crdt.ChangeHash, x, y string) {
	one, other := w.held(a), w.held(b)
	for h := range w.changes {
		x, y := w.stateOf(one, h), w.stateOf(other, h)
		if x != y && x != packed && y != packed {
			return h, x, y
		}
	}
	return h, "", ""
}

// packedRightly (I-packed): a checkpoint packs what was committed once, and nothing else.
func (w *protectedWorld) packedRightly(body *chunk.Checkpoint) {
	if w.cfg.Liar {
		return // a lie may have certified what nobody committed
	}
	committed := map[crdt.ChangeHash]bool{}
	for _, c := range w.commits {
		for _, h := range w.plain[c[1]] {
			w.ancestors(committed, h)
		}
	}
	for _, p := range body.Parts {
		for _, ch := range p.Changes {
			c, err := crdt.Decode(ch.Raw)
			w.must("decode", err)
			if !committed[c.Hash] {
				w.fail("I-packed", "a checkpoint packs %v, which nobody committed", c.Hash)
			}
		}
	}
}

// ancestors adds a change and all that it builds on to a set.
func (w *protectedWorld) ancestors(set map[crdt.ChangeHash]bool, h crdt.ChangeHash) {
	if set[h] {
		return
	}
	set[h] = true
	for _, d := range w.changes[h].deps {
		w.ancestors(set, d)
	}
}

// packsHeld reports whether a checkpoint is held: what was packed does not count any more.
func (w *protectedWorld) packsHeld(held map[string]string) bool {
	for _, state := range held {
		if strings.HasPrefix(state, "checkpoint ") {
			return true
		}
	}
	return false
}

// stateOf says why a change is held; empty: it is not.
func (w *protectedWorld) stateOf(held map[string]string, h crdt.ChangeHash) string {
	if state := held[names8(w.changes[h].chunk)]; state != "" {
		return state
	}
	if w.packsHeld(held) {
		return packed
	}
	return ""
}

func (w *protectedWorld) held(s *site) map[string]string {
	out := map[string]string{}
	for after := ""; ; {
		page, err := s.replica.ListHeld(w.ctx, api.HeldQuery{Discarded: true, After: after})
		w.must("list", err)
		for _, h := range page.Chunks {
			if out[h.Chunk] = h.State + " " + h.Reason; w.packs[h.Chunk] {
				out[h.Chunk] = "checkpoint " + out[h.Chunk]
			}
		}
		if after = page.Next; after == "" {
			return out
		}
	}
}

// onTop (I4): what is certified has among its ancestors what was, as far as anybody can tell what that is.
func (w *protectedWorld) onTop() {
	for _, c := range w.commits {
		before, after := w.plain[c[0]], w.plain[c[1]]
		if before == nil || after == nil {
			continue
		}
		past, queue := map[crdt.ChangeHash]bool{}, slices.Clone(after)
		for len(queue) > 0 {
			h := queue[0]
			queue = queue[1:]
			if past[h] {
				continue
			}
			past[h] = true
			queue = append(queue, w.changes[h].deps...)
		}
		for _, h := range before {
			if !past[h] {
				w.fail("I-barrier", "heads are certified that were not made on those before them")
			}
		}
	}
}

// certified (I3): the applied set is exactly the ancestors of what the quorum certified; all the rest is kept aside and shown, whoever wrote it.
func (w *protectedWorld) certified() {
	accepted := map[crdt.ChangeHash]bool{}
	for _, l := range w.st.Leases() {
		for _, d := range l.Documents {
			if w.plain[d.Heads] == nil {
				w.fail("I-certified", "nobody has said what is certified of a document")
			}
			for _, h := range w.plain[d.Heads] {
				w.ancestors(accepted, h)
			}
		}
	}
	var set chunk.SetHash
	for h := range accepted {
		set.Add(h)
	}
	w.report.Accepted, w.report.Late = len(accepted), len(w.changes)-len(accepted)
	for _, s := range w.hearing() {
		for _, sc := range s.replica.Hello(w.sites[0].keys.Device()).Scopes {
			if sc.Scope == w.scope && sc.Applied != set.Sum() {
				w.fail("I-certified", "%s has not applied exactly the %d changes that are certified", s.name, len(accepted))
			}
		}
		held := w.held(s)
		if w.report.Back == 0 && w.packsHeld(held) {
			w.fail("I-packed", "%s: a checkpoint holds what is not certified, and no break took it back", s.name)
		}
		settled := 0
		for h := range w.changes {
			state := w.stateOf(held, h)
			switch {
			case state == packed:
			case accepted[h] && state != "":
				w.fail("I-certified", "%s: a certified change is %s", s.name, state)
			case !accepted[h] && !strings.HasPrefix(state, "quarantined") && !strings.HasPrefix(state, "settled"):
				w.fail("I-late", "%s: a change that was not committed is %q", s.name, state)
			}
			if strings.HasPrefix(state, "settled") {
				settled++
			}
		}
		w.report.Settled = settled
	}
}
