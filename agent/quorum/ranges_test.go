package quorum

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/storage"
	"chartmesh/trust"
)

// gives are the numbers of a range that devices gave, each of which is given once.
type gives struct {
	t  *testing.T
	by map[int64]string
}

func (g *gives) next(m *member, item string) api.RangeNumber {
	g.t.Helper()
	n, err := m.service.NextInRange(g.t.Context(), api.RangeNext{Name: "patients", For: item})
	must(g.t, err)
	what := m.name + " " + item
	if was, twice := g.by[n.Number]; twice && was != what {
		g.t.Errorf("%d was given by %s, and by %s", n.Number, was, what)
	}
	g.by[n.Number] = what
	return n
}

func (m *member) setRange(part int64) {
	m.of.t.Helper()
	_, err := m.service.SetRange(m.of.t.Context(), api.RangeRequest{Name: "patients", First: 1, Last: 1000, Increment: 1, Part: part})
	must(m.of.t, err)
}

// range returns how a device sees the range.
func (m *member) rangeNow() api.Range {
	m.of.t.Helper()
	list, err := m.service.Ranges(m.of.t.Context())
	must(m.of.t, err)
	if len(list) != 1 {
		m.of.t.Fatalf("%s sees the ranges %+v", m.name, list)
	}
	return list[0]
}

// TestRanges: devices give numbers from parts of their own, without a quorum too; a part that was set aside is taken, one that was taken back gives nothing more, and the
// report explains every number.
func TestRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleMember, trust.RoleReader)
		a, b, c := p.named("A"), p.named("B"), p.named("C")
		a.waitState(api.QuorumOK)
		b.waitState(api.QuorumOK)
		a.setRange(10)
		g := &gives{t, map[int64]string{}}
		if n := g.next(b, "Patient/1"); n.Number != 1 || n.Left != 9 || n.Again {
			t.Errorf("the first number is %+v", n)
		}
		if n := g.next(b, "Patient/1"); n.Number != 1 || !n.Again {
			t.Errorf("asked again it is %+v", n)
		}
		if n := g.next(a, "Patient/1"); n.Number != 11 {
			t.Errorf("another device gives %+v", n)
		}
		if _, err := c.service.NextInRange(t.Context(), api.RangeNext{Name: "patients"}); api.CodeOf(err) != api.CodeForbidden {
			t.Errorf("a reader gives a number: %v", err)
		}
		if _, err := b.service.SetRange(t.Context(), api.RangeRequest{Name: "patients", First: 1, Last: 9, Increment: 1}); api.CodeOf(err) != api.CodeForbidden {
			t.Errorf("a member says which numbers there are: %v", err)
		}
		must1 := func(_ api.Range, err error) { t.Helper(); must(t, err) }
		must1(a.service.GrantRange(t.Context(), api.RangeGrant{Name: "patients", First: 501, Last: 505}, p.ids("B")))
		if _, err := a.service.GrantRange(t.Context(), api.RangeGrant{Name: "patients", First: 505, Last: 510}, p.ids("B")); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("a part that overlaps is granted: %v", err)
		}
		must1(a.service.GrantRange(t.Context(), api.RangeGrant{Name: "patients", First: 600, Last: 609, Increment: 5}, p.ids("A")))
		if parts := a.rangeNow().Parts; parts[len(parts)-1].Increment != 5 {
			t.Errorf("a part with an increment of its own is %+v", parts[len(parts)-1])
		}
		if _, err := a.service.GrantRange(t.Context(), api.RangeGrant{Name: "patients", Count: 10, Increment: 5}, p.ids("A")); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("an increment of any numbers: %v", err)
		}
		// Without a quorum it gives what it has, and says so when there is none left.
		p.mu.Lock()
		a.cut = true
		p.mu.Unlock()
		for i := range 9 {
			g.next(b, fmt.Sprint("Patient/", 10+i))
		}
		if r := b.rangeNow(); r.Unreached == "" || r.Here.Left != 0 {
			t.Errorf("without a quorum it shows %+v", r)
		}
		if _, err := b.service.NextInRange(t.Context(), api.RangeNext{Name: "patients", For: "Patient/x"}); api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("with no number and no quorum: %v", err)
		}
		p.mu.Lock()
		a.cut = false
		p.mu.Unlock()
		b.waitState(api.QuorumOK)
		if n := g.next(b, "Patient/x"); n.Number != 501 {
			t.Errorf("of what was set aside for it it gives %+v", n)
		}
		from := int64(503)
		must1(a.service.VoidRange(t.Context(), "Dr. Berg", api.RangeVoid{Name: "patients", First: 501, From: &from, Reason: "lost"}))
		b.service.low <- struct{}{} // it looks after its parts, and hears of it
		synctest.Wait()
		for i := range 3 {
			if n := g.next(b, fmt.Sprint("Patient/", 30+i)); n.Number >= 501 {
				t.Errorf("from a part that was taken back it gives %+v", n)
			}
		}
		report, err := b.service.RangeReport(t.Context(), "patients")
		must(t, err)
		at := int64(1)
		for _, e := range report.Entries {
			if e.First != at || e.Last < e.First {
				t.Errorf("after %d it explains %d to %d", at-1, e.First, e.Last)
			}
			at = e.Last + 1
			if _, gave := g.by[e.First]; (e.What == api.RangeGiven) != (gave && e.First != 11) {
				t.Errorf("it says of %d: %+v", e.First, e)
			}
		}
		if at != 1001 {
			t.Errorf("it explains up to %d", at-1)
		}
		if i := slices.IndexFunc(report.Entries, func(e api.RangeEntry) bool { return e.What == api.RangeVoided }); i < 0 || report.Entries[i].First != 503 || report.Entries[i].User != "Dr. Berg" {
			t.Errorf("what was taken back is explained by %+v", report.Entries)
		}
	})
}

// TestRangesReseed: a quorum that is founded anew, with nothing of the voter's log or with a log from before, grants nothing of what devices have: each says its parts.
func TestRangesReseed(t *testing.T) {
	for _, how := range []string{"nothing of the log", "a log from before"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPractice(t, trust.RoleAdmin, trust.RoleMember, trust.RoleMember)
				a, b, c, d := p.named("A"), p.named("B"), p.named("C"), p.named("D")
				a.waitState(api.QuorumOK)
				b.waitState(api.QuorumOK)
				a.setRange(10)
				var before *storage.Twin
				if how == "a log from before" {
					time.Sleep(time.Minute)
					before = a.store.Copy()
				}
				g := &gives{t, map[int64]string{}}
				for i := range 12 {
					g.next(b, fmt.Sprint("Patient/b", i))
					g.next(c, fmt.Sprint("Patient/c", i))
				}
				if d := b.rangeNow(); len(d.Parts) < 4 {
					t.Fatalf("the parts are %+v", d.Parts)
				}
				a.end()
				gone := p.ids("A")
				if before != nil { // it comes back as it was before any part was granted
					a.store, gone = before, nil
					a.moves()
					a.start()
					a.waitState(api.QuorumStopped)
				}
				c.of.mu.Lock()
				c.cut = true
				c.of.mu.Unlock()
				if _, err := b.service.Reseed(t.Context(), nil, gone, false); api.CodeOf(err) != api.CodeUnavailable {
					t.Errorf("a device that has parts is not waited for: %v", err)
				}
				c.of.mu.Lock()
				c.cut = false
				c.of.mu.Unlock()
				out, err := b.service.Reseed(t.Context(), nil, gone, false)
				must(t, err)
				if !out.Done || out.Status.State != api.QuorumOK || out.Ranges != 1 {
					t.Fatalf("it came to %+v", out)
				}
				b.setRange(10)
				d.waitState(api.QuorumOK)
				for i := range 25 {
					g.next(d, fmt.Sprint("Patient/d", i))
					g.next(c, fmt.Sprint("Patient/c", 12+i))
					g.next(b, fmt.Sprint("Patient/b", 12+i))
				}
				var last int64
				for _, part := range b.rangeNow().Parts {
					if part.First <= last {
						t.Errorf("parts overlap at %d", part.First)
					}
					last = part.Last
				}
			})
		})
	}
}

// TestForgottenParts: a device whose store was filled anew says that it does not know any more how far it came in a part, and gives nothing from it; of others it says whether they
// are there. What is taken back is explained.
func TestForgottenParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleMember)
		a, b := p.named("A"), p.named("B")
		a.waitState(api.QuorumOK)
		b.waitState(api.QuorumOK)
		a.setRange(10)
		g := &gives{t, map[int64]string{}}
		g.next(b, "Patient/1")
		part := func(m *member) api.RangePart { t.Helper(); return m.rangeNow().Parts[0] }
		if got := part(a); got.State != api.PartInUse || !got.Connected || got.LastContact != nil {
			t.Errorf("of a device that is there it says %+v", got)
		}
		b.end()
		p.mu.Lock()
		was := time.Now().Add(-time.Hour)
		a.service.cfg.LastContact = func(trust.DeviceID) time.Time { return was }
		p.mu.Unlock()
		if got := part(a); got.Connected || got.LastContact == nil || time.Since(*got.LastContact) < time.Hour {
			t.Errorf("of a device that is away it says %+v", got)
		}
		b.store, b.wiped = storage.NewTwin(), true
		b.moves()
		b.start()
		b.waitState(api.QuorumOK)
		if got := part(b); got.State != api.PartForgotten || got.Mine {
			t.Errorf("of what it has forgotten it says %+v", got)
		}
		explained := func() api.RangeEntry {
			t.Helper()
			r, err := b.service.RangeReport(t.Context(), "patients")
			must(t, err)
			return r.Entries[0]
		}
		if e := explained(); e.What != api.RangeUnknown || e.First != 1 || e.Last != 10 {
			t.Errorf("it explains them by %+v", e)
		}
		if n := g.next(b, "Patient/2"); n.Number != 11 {
			t.Errorf("it gives %+v", n)
		}
		_, err := a.service.VoidRange(t.Context(), "Dr. Berg", api.RangeVoid{Name: "patients", First: 1, Reason: "its disk was lost"})
		must(t, err)
		if e := explained(); e.What != api.RangeUnknown || e.User != "Dr. Berg" || e.Reason != "its disk was lost" || e.Last != 10 {
			t.Errorf("taken back they are explained by %+v", e)
		}
		p.remove(a, b)
		a.waitState(api.QuorumOK)
		if r := a.rangeNow(); !r.Parts[1].Removed || r.Parts[0].Removed {
			t.Errorf("of a device that was removed it says %+v", r.Parts)
		}
	})
}
