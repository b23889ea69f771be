package replica_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt/engine"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// anchor adds an anchor to the practice, which says what a test has it say.
func anchor(t *testing.T, by *device) trust.DeviceID {
	t.Helper()
	keys, err := keyring.Create("", nil)
	must(t, err)
	must(t, by.Enter(t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		e, err := by.keys.AddAnchor(st, keys.Device(), []string{"/ip4/127.0.0.1/udp/1/quic-v1"}, "anchor", time.Now())
		return []trust.Entry{e}, err
	}))
	return keys.Device()
}

// says has another device say that it holds a vector: as the first word of a session, or later in it.
func (d *device) says(from trust.DeviceID, v chunk.Vector, first bool) {
	d.t.Helper()
	must(d.t, d.Acked(d.t.Context(), from, session.Ack{Scope: forge(d).Scope, Stored: v, First: first,
		Digest: session.Digest{VectorHash: v.Hash()}}))
}

func (d *device) proof(of trust.DeviceID) replica.Proof {
	d.t.Helper()
	proofs, err := d.Proofs()
	must(d.t, err)
	p := proofs[of]
	if p.Stored > p.Chunks || p.Readable > p.Stored {
		d.t.Errorf("%s says of %s: %+v", d.name, of, p)
	}
	return p
}

// stored writes where each change of a resource is: "here", "anchor", or "2 devices (1)" with how many of them can read it.
func (d *device) stored(ref string) string {
	d.t.Helper()
	s, err := d.Stored(d.t.Context(), parseRef(d.t, ref))
	must(d.t, err)
	out := s.Where + ":"
	for _, rev := range s.Revisions {
		switch out += " " + rev.Where; rev.Where {
		case api.StoredDevices:
			out += fmt.Sprintf("%d/%d", rev.Devices, len(rev.ReadableAt))
		}
	}
	history, err := d.History(d.t.Context(), parseRef(d.t, ref))
	must(d.t, err)
	for i, rev := range history {
		if fmt.Sprint(rev.Stored) != fmt.Sprint(s.Revisions[i].Stored) || rev.Version != s.Revisions[i].Version {
			d.t.Errorf("history says %+v, and stored %+v", rev, s.Revisions[i])
		}
	}
	return out
}

// TestWhereAnEditIs follows edits from here only to the anchor, to other devices, and to where they can be read.
func TestWhereAnEditIs(t *testing.T) {
	p := practice(t, "surgery", "branch", "home")
	a, b, c := p[0], p[1], p[2]
	at := anchor(t, a)
	scope := forge(a).Scope
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	check := func(where string, alone, anchored int) {
		t.Helper()
		if got := a.stored("Patient/p1"); got != where {
			t.Errorf("it is %s, want %s", got, where)
		}
		if s := a.Status(); s.NotElsewhere != alone || s.AtAnchor != anchored {
			t.Errorf("%d here only and %d at the anchor, want %d and %d", s.NotElsewhere, s.AtAnchor, alone, anchored)
		}
	}
	check("here: here", 1, 0)
	a.says(at, a.Vector(scope), true)
	check("anchor: anchor", 0, 1)
	a.edit("Patient/p1", func(m map[string]any) { m["language"] = "de" })
	check("here: anchor here", 1, 1)
	sync(t, a, b)
	check("devices: devices1/1 devices1/1", 0, 0)

	// Stored and not yet read.
	a.edit("Patient/p1", func(m map[string]any) { m["language"] = "fr" })
	must(t, a.Acked(t.Context(), c.Device(), session.Ack{Scope: scope, Stored: a.Vector(scope),
		Digest: session.Digest{VectorHash: a.Vector(scope).Hash()}}))
	check("devices: devices2/1 devices2/1 devices1/0", 0, 0)
	if p := a.proof(c.Device()); p.Stored != 3 || p.Readable != 0 || p.StoredAsOf.IsZero() || !p.ReadableAsOf.IsZero() {
		t.Errorf("proof of what was stored alone: %+v", p)
	}
	// What b lacks is known while it is away, and after a restart.
	must(t, a.FlushAcks(t.Context()))
	a.crash()
	check("devices: devices2/1 devices2/1 devices1/0", 0, 0)
	if p := a.proof(b.Device()); p.Chunks != 3 || p.Stored != 2 || p.Readable != 2 || p.Bytes < 100 || p.ReadableAsOf.IsZero() {
		t.Errorf("proof of a device that is away: %+v", p)
	}
	if p := a.proof(at); p.Chunks != 3 || p.Stored != 1 || p.Readable != 0 {
		t.Errorf("proof of the anchor: %+v", p)
	}
	// What a device held that was removed is nobody's.
	must(t, a.Enter(t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		e, err := a.keys.Remove(st, c.Device(), nil, time.Now())
		return []trust.Entry{e}, err
	}))
	check("here: devices1/1 devices1/1 here", 1, 0)
}

// TestLostThere: a device that begins a session with less than it had confirmed was put back. What it lost is not elsewhere any
// more, which is said until it holds as much again.
func TestLostThere(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	at := anchor(t, a)
	scope := forge(a).Scope
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	a.edit("Patient/p1", func(m map[string]any) { m["language"] = "de" })
	early := a.Vector(scope)
	a.edit("Patient/p1", func(m map[string]any) { m["language"] = "fr" })
	a.says(at, a.Vector(scope), true)
	if s := a.Status(); s.NotElsewhere != 0 || s.AtAnchor != 3 {
		t.Fatalf("status %+v", s)
	}
	a.says(at, early, false) // late, in the same session
	if s := a.Status(); s.NotElsewhere != 0 {
		t.Fatalf("an old VECTOR took something back: %+v", s)
	}
	a.says(at, early, true)
	if s, l := a.Status(), a.proof(at).Lost; s.NotElsewhere != 1 || s.AtAnchor != 2 || !l.Open() || l.Confirmed.IsZero() {
		t.Fatalf("rolled back: %+v, %+v", s, l)
	}
	was := a.proof(at).Lost.Confirmed
	a.says(at, chunk.Vector{}, true)
	if s, l := a.Status(), a.proof(at).Lost; s.NotElsewhere != 3 || !l.Open() || !l.Confirmed.Equal(was) {
		t.Fatalf("wiped: %+v, %+v", s, l)
	}
	a.crash() // at once
	if l := a.proof(at).Lost; !l.Open() || a.Status().NotElsewhere != 3 {
		t.Fatalf("after a restart: %+v", l)
	}
	a.says(at, early, false)
	if l := a.proof(at).Lost; !l.Open() {
		t.Fatalf("half of it is back: %+v", l)
	}
	a.says(at, a.Vector(scope), false)
	if s, l := a.Status(), a.proof(at).Lost; s.NotElsewhere != 0 || s.AtAnchor != 3 || l.Open() || l.Again.IsZero() {
		t.Fatalf("filled again: %+v, %+v", s, l)
	}

	// The same between two devices, in sessions.
	sync(t, a, b)
	twin := b.twin.Copy()
	a.edit("Patient/p1", func(m map[string]any) { m["language"] = "en" })
	b.put(`{"resourceType":"Patient","id":"p2"}`, false)
	sync(t, a, b)
	if p := a.proof(b.Device()); p.Stored != p.Chunks || p.Readable != p.Chunks || !p.Lost.Seen.IsZero() {
		t.Fatalf("in sync: %+v", p)
	}
	b = b.rollBack(twin, b.keys)
	sync(t, a, b)
	p1 := a.proof(b.Device())
	if p1.Lost.Seen.IsZero() || p1.Lost.Open() || p1.Stored != p1.Chunks {
		t.Fatalf("after it was filled again: %+v", p1)
	}
	sync(t, a, b)
	if p2 := a.proof(b.Device()); p2.Lost != p1.Lost {
		t.Errorf("seen anew: %+v", p2)
	}
}

// TestLossIsStoredLast has a device say that it lost something while what it had confirmed before is being stored: a crash brings back
// the loss, and not the copy that is not there.
func TestLossIsStoredLast(t *testing.T) {
	practice(t, "first")[0].put(bernd, false) // what is shared by all tests is not to belong to the bubble
	synctest.Test(t, func(t *testing.T) {
		a := practice(t, "surgery")[0]
		at := anchor(t, a)
		scope := forge(a).Scope
		a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
		held := a.Vector(scope)
		store := &beforeCommit{Store: a.twin}
		e := engine.NewLocal()
		t.Cleanup(func() { _ = e.Close() })
		r, err := replica.Open(replica.Config{Store: store, Keyring: a.keys, Engine: e})
		must(t, err)
		says := func(v chunk.Vector) error {
			return r.Acked(t.Context(), at, session.Ack{Scope: scope, Stored: v, First: true, Digest: session.Digest{VectorHash: v.Hash()}})
		}
		must(t, says(held))
		done := make(chan error, 1)
		store.hook = func() {
			go func() { done <- says(chunk.Vector{}) }()
			synctest.Wait()
		}
		must(t, r.FlushAcks(t.Context()))
		must(t, <-done)
		if store.hook != nil || r.Status().AtAnchor != 0 {
			t.Fatalf("nothing was lost: %+v", r.Status())
		}
		a.crash()
		if s := a.Status(); s.NotElsewhere != 1 || s.AtAnchor != 0 || !a.proof(at).Lost.Open() {
			t.Errorf("after a restart: %+v, %+v", s, a.proof(at).Lost)
		}
	})
}

// TestDropped: what an anchor had confirmed that lets the practice go is not there any more, at once and for good; what others confirmed
// is. Of a device that says so nothing is taken back.
func TestDropped(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	at, other := anchor(t, a), anchor(t, a)
	scope := forge(a).Scope
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	v := a.Vector(scope)
	a.says(at, v, true)
	a.says(other, v, true)
	must(t, a.Dropped(t.Context(), at))
	if s := a.Status(); s.AtAnchor != 1 || s.NotElsewhere != 0 || a.proof(at).Stored != 0 || a.proof(other).Stored != 1 {
		t.Fatalf("one of two anchors dropped it: %+v", s)
	}
	must(t, a.Dropped(t.Context(), other))
	check := func(when string, alone int) {
		t.Helper()
		for _, d := range []trust.DeviceID{at, other} {
			if p := a.proof(d); p.Stored != 0 || !p.Lost.Seen.IsZero() {
				t.Errorf("%s: an anchor is said to hold %+v", when, p)
			}
		}
		if s := a.Status(); s.AtAnchor != 0 || s.NotElsewhere != alone {
			t.Errorf("%s: %+v", when, s)
		}
	}
	check("both dropped it", 1)
	a.crash()
	check("after a restart", 1)
	a.edit("Patient/p1", func(m map[string]any) { m["language"] = "de" })
	check("after an edit", 2)
	a.says(at, v, true)
	if s, p := a.Status(), a.proof(at); s.AtAnchor != 1 || s.NotElsewhere != 1 || !p.Lost.Seen.IsZero() {
		t.Errorf("the anchor took it again: %+v, %+v", s, p)
	}

	sync(t, a, b)
	must(t, a.Dropped(t.Context(), b.Device()))
	if p := a.proof(b.Device()); p.Stored != p.Chunks || p.Stored == 0 {
		t.Errorf("of a device: %+v", p)
	}
}

// beforeView is a store that calls a hook before it is read, once.
type beforeView struct {
	storage.Store
	hook func()
}

func (s *beforeView) View(fn func(storage.Reader) error) error {
	if hook := s.hook; hook != nil {
		s.hook = nil
		hook()
	}
	return s.Store.View(fn)
}

// TestDroppedWhileItIsCompared has an anchor drop the practice while something that it had said before is compared with what has come
// meanwhile: it counts no more.
func TestDroppedWhileItIsCompared(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	at := anchor(t, a)
	scope := forge(a).Scope
	b.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	sync(t, a, b)
	b.edit("Patient/p1", func(m map[string]any) { m["language"] = "de" })
	said := b.Vector(scope)
	b.edit("Patient/p1", func(m map[string]any) { m["language"] = "fr" })

	store := &beforeView{Store: a.twin}
	e := engine.NewLocal()
	t.Cleanup(func() { _ = e.Close() })
	r, err := replica.Open(replica.Config{Store: store, Keyring: a.keys, Engine: e})
	must(t, err)
	must(t, r.Acked(t.Context(), at, session.Ack{Scope: scope, Stored: said, First: true, Digest: session.Digest{VectorHash: said.Hash()}}))
	must(t, r.Arrive(t.Context(), b.Device(), b.ownLog()))
	store.hook = func() { must(t, r.Dropped(t.Context(), at)) }
	r.Status()
	if store.hook != nil {
		t.Fatal("nothing was compared")
	}
	proofs, err := r.Proofs()
	must(t, err)
	if proofs[at].Stored != 0 {
		t.Errorf("who dropped the practice is said to hold %d chunks of it", proofs[at].Stored)
	}
}

// TestLessIsNoLoss: a vector may say less for other reasons than a loss.
func TestLessIsNoLoss(t *testing.T) {
	p := practice(t, "surgery", "branch", "home")
	a, b, c := p[0], p[1], p[2]
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	sync(t, a, b)
	must(t, a.FlushAcks(t.Context()))
	was := a.twin.Copy()
	a.edit("Patient/p1", func(m map[string]any) { m["language"] = "de" })
	a.edit("Patient/p1", func(m map[string]any) { m["language"] = "fr" })
	sync(t, a, b)
	sync(t, b, c)

	// Cut off where a vector is full.
	full := chunk.Vector{}
	for i := range chunk.MaxLogs {
		full[chunk.LogID{byte(i), byte(i >> 8), 1}] = chunk.Position{Counter: 1}
	}
	a.says(b.Device(), full, true)
	if l := a.proof(b.Device()).Lost; !l.Seen.IsZero() || a.Status().NotElsewhere > 0 {
		t.Errorf("a full vector: %+v", l)
	}

	// Another history of this device's log, which is as long: it holds nothing of the first.
	a = a.rollBack(was, a.keys)
	a.edit("Patient/p1", func(m map[string]any) { m["gender"] = "male" })
	if s := a.Status(); s.NotElsewhere != 1 {
		t.Errorf("before the others are met: %+v", s)
	}
	sync(t, a, c)
	settleAll(t, a, b, c)
	sameEverywhere(t, a, b, c)
	for _, x := range []*device{a, b, c} {
		for _, y := range []*device{a, b, c} {
			if x == y {
				continue
			}
			if p := x.proof(y.Device()); p.Stored != p.Chunks || p.Readable != p.Chunks || !p.Lost.Seen.IsZero() {
				t.Errorf("%s says of %s: %+v", x.name, y.name, p)
			}
		}
		if s := x.Status(); s.NotElsewhere > 0 {
			t.Errorf("%s: %+v", x.name, s)
		}
	}
	for _, x := range []*device{a, b} { // also of a log with several histories, over a restart
		must(t, x.FlushAcks(t.Context()))
		x.crash()
		x.put(`{"resourceType":"Patient","id":"new-`+x.name[:3]+`"}`, false)
		if s := x.Status(); s.NotElsewhere != 1 {
			t.Errorf("%s after a restart and an edit: %+v", x.name, s)
		}
	}
}

// TestLostBranchThere: a device that begins a session with the end of a log, and not with exactly what is held here, may have lost what
// stands beside it.
func TestLostBranchThere(t *testing.T) {
	a, b, _ := forked(t)
	settleAll(t, a, b)
	p := a.proof(b.Device())
	if p.Chunks == 0 || p.Stored != p.Chunks {
		t.Fatalf("in sync: %+v", p)
	}
	v := a.Vector(forge(a).Scope)
	a.says(b.Device(), v, false) // a VECTOR within the session
	if p := a.proof(b.Device()); p.Stored != p.Chunks {
		t.Errorf("said once more: %+v", p)
	}
	a.says(b.Device(), v, true)
	if p := a.proof(b.Device()); p.Stored >= p.Chunks {
		t.Errorf("put back to before the branch came: %+v", p)
	}
	must(t, a.FlushAcks(t.Context()))
	a.crash()
	if p := a.proof(b.Device()); p.Stored >= p.Chunks {
		t.Errorf("after a restart: %+v", p)
	}
	sync(t, a, b)
	if p := a.proof(b.Device()); p.Stored != p.Chunks || p.Readable != p.Chunks {
		t.Errorf("they met again: %+v", p)
	}
}

// TestManyAcknowledgements: what many devices said at once of very many logs is stored, in several commits.
func TestManyAcknowledgements(t *testing.T) {
	a := practice(t, "surgery")[0]
	a.ManySaid(forge(a).Scope, 45, chunk.MaxLogs)
	must(t, a.FlushAcks(t.Context()))
	n := 0
	for _, k := range keysOf(t, a.twin) {
		if k[0] == storage.Ack.Number() {
			n++
		}
	}
	if n != 45*chunk.MaxLogs {
		t.Errorf("%d are stored", n)
	}
	a.twin.OnCommit(func(storage.Stage, int) error { return errors.New("nothing is left to store") })
	must(t, a.FlushAcks(t.Context()))
}

// TestOldAcknowledgements reads those of builds that noted no more than a position.
func TestOldAcknowledgements(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	sync(t, a, b)
	must(t, a.FlushAcks(t.Context()))
	var batch storage.Batch
	must(t, a.twin.View(func(v storage.Reader) error {
		if err := v.Scan(storage.Said.All(), nil, func(key, _ []byte) error {
			batch.Delete(append([]byte(nil), key...))
			return nil
		}); err != nil {
			return err
		}
		return v.Scan(storage.Ack.All(), nil, func(key, value []byte) error {
			old := append([]byte{1}, value[1:18]...) // counter of one byte, and tip
			batch.Put(append([]byte(nil), key...), old)
			return nil
		})
	}))
	must(t, a.twin.Commit(t.Context(), &batch))
	a.crash()
	if p := a.proof(b.Device()); a.Status().NotElsewhere != 0 || p.Stored != 1 || !p.StoredAsOf.IsZero() {
		t.Errorf("proof %+v", p)
	}
	a.put(`{"resourceType":"Patient","id":"p2"}`, false)
	sync(t, a, b)
	if p := a.proof(b.Device()); p.Readable != p.Chunks || p.StoredAsOf.IsZero() {
		t.Errorf("after a session: %+v", p)
	}
}

// TestReadBeforeTheSession: a device whose HELLO was on its way when it got and applied from elsewhere what the other holds says so at
// once, and not when somebody asks again.
func TestReadBeforeTheSession(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	a.applyAll()
	now := time.Now()
	sa := session.New(session.Config{Self: a.Device(), Peer: b.Device(), Replica: a.Replica})
	sb := session.New(session.Config{Self: b.Device(), Peer: a.Device(), Replica: b.Replica})
	sa.Start(now)
	sb.Start(now)
	early, err := sb.Next(t.Context(), now)
	must(t, err)
	b.take(a, a.ownLog()...)
	for _, s := range b.State().Scopes() {
		sb.Applied(now, s.ID)
	}
	_, err = sa.Handle(t.Context(), now, early)
	must(t, err)
	for busy := true; busy; now = now.Add(time.Millisecond) {
		busy = false
		for from, to := range map[*session.Session]*session.Session{sa: sb, sb: sa} {
			f, err := from.Next(t.Context(), now)
			must(t, err)
			if f != nil {
				busy = true
				_, err := to.Handle(t.Context(), now, f)
				must(t, err)
			}
		}
	}
	if p := a.proof(b.Device()); p.Readable != 1 || !sa.Status().Agreed {
		t.Errorf("%+v, %+v", p, sa.Status())
	}
}
