package acceptance

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/simulations/natbed"
)

// home is a practice of two sites behind routers, with an anchor.
type home struct {
	t        *testing.T
	bed      *natbed.Bed
	anchor   *running
	at       [2]*natbed.Machine
	site     [2]*site
	patients int
}

// newHome founds a practice at one site and has the other join through the anchor. Nothing runs afterwards but the anchor. No routers: the
// site has a public address.
func newHome(t *testing.T, a, b []natbed.Router) *home {
	t.Helper()
	h := &home{t: t, bed: natbed.New(t)}
	root := t.TempDir()
	cloud := h.bed.Public("cloud")
	at := "/ip4/" + cloud.Addr
	h.anchor = &running{t: t, name: "anchor", dir: root + "/anchor", netns: cloud.Netns,
		listen: []string{at + "/udp/4001/quic-v1", at + "/tcp/4001", at + "/tcp/443/tls/ws"}}
	h.anchor.open()
	for i, routers := range [][]natbed.Router{a, b} {
		name := []string{"surgery", "home"}[i]
		if len(routers) == 0 {
			h.at[i] = h.bed.Public(name)
		} else {
			h.at[i] = h.bed.Behind(name, routers...)
		}
		h.site[i] = newSite(t, root, name)
		h.site[i].netns, h.site[i].noMDNS, h.site[i].all = h.at[i].Netns, true, true
	}
	one, two := h.site[0], h.site[1]
	one.mustRun("init", "--practice", "Praxis", "--site", one.name, "--device", one.name)
	one.start()
	added, err := one.client.AddAnchor(t.Context(), api.AnchorRequest{Addresses: h.anchor.addresses, Name: "anchor"})
	must(t, err)
	h.anchor.admit(added.Token)
	h.reaches(one, "anchor")
	line := []string{"join", one.invite(), "--site", two.name, "--device", two.name}
	for _, a := range h.anchor.addresses {
		line = append(line, "--anchor", a)
	}
	two.mustRun(line...)
	two.start()
	h.reaches(two, one.name)
	two.inSync()
	one.stop()
	two.stop()
	return h
}

// reaches waits until a site is in sync with a peer.
func (h *home) reaches(s *site, peer string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	_, err := s.client.WaitInSync(ctx, peer)
	must(h.t, err)
}

// isDirect reports whether a way leads from one to the other without anybody between.
func isDirect(way string) bool { return way != "" && way != "relayed" && way != api.WayStored }

// way returns how a site reaches the other one; empty or stored if it does not.
func (h *home) way(i int) string {
	h.t.Helper()
	st, err := h.site[i].client.Status(h.t.Context(), h.site[1-i].name)
	must(h.t, err)
	return st.Peers[0].Way
}

// until polls until something holds, and returns after how long; not ok after most.
func (h *home) until(begun time.Time, most time.Duration, holds func() bool) (time.Duration, bool) {
	h.t.Helper()
	for !holds() {
		if time.Since(begun) > most {
			return 0, false
		}
		wait(h.t, 10*time.Millisecond)
	}
	return time.Since(begun), true
}

// has reports whether a site has a resource.
func (h *home) has(i int, ref api.Ref) bool {
	_, err := h.site[i].client.Get(h.t.Context(), ref, "")
	return err == nil
}

// edit writes a resource at a site.
func (h *home) edit(i int) api.Ref {
	h.t.Helper()
	h.patients++
	ref := api.Ref{Type: "Basic", ID: fmt.Sprintf("edit-%d", h.patients)}
	_, err := h.site[i].put(fmt.Appendf(nil, `{"resourceType":"Basic","id":%q,"code":{"text":"an edit"}}`, ref.ID), false)
	must(h.t, err)
	return ref
}

// meeting is what one run of a case came to. Times are from when the second site runs.
type meeting struct {
	first, direct time.Duration // zero: not within the time
	ways          [2]string
}

// meet starts both sites behind routers that know nothing, and measures how they find each other.
func (h *home) meet(direct bool) (m meeting) {
	h.t.Helper()
	for _, at := range h.at {
		at.Forget()
	}
	h.site[0].start()
	ref := h.edit(0)
	h.site[1].start()
	begun := time.Now()
	m.first, _ = h.until(begun, 40*time.Second, func() bool { return h.has(1, ref) })
	most := 8 * time.Second
	if direct {
		most = 20 * time.Second
	}
	m.direct, _ = h.until(begun, most, func() bool {
		m.ways = [2]string{h.way(0), h.way(1)}
		return isDirect(m.ways[0]) && isDirect(m.ways[1])
	})
	back := h.edit(1) // and the other way, by whatever way there is now
	if _, ok := h.until(time.Now(), 20*time.Second, func() bool { return h.has(0, back) }); !ok {
		h.t.Errorf("an edit does not come back: %v", m.ways)
	}
	h.site[0].stop()
	h.site[1].stop()
	return m
}

// TestNAT: what is reached behind which routers, how, and how fast.
func TestNAT(t *testing.T) {
	heavy(t)
	const runs = 10
	plain, random := natbed.Router{}, natbed.Router{RandomPorts: true}
	noUDP, web := natbed.Router{NoUDP: true}, natbed.Router{OnlyPort: 443}
	type routers = []natbed.Router
	for _, c := range []struct {
		name   string
		a, b   routers
		direct bool // it shall be, nine times of ten
	}{
		{"port-preserving on both sides", routers{plain}, routers{plain}, true},
		{"random ports on one side", routers{random}, routers{plain}, false},
		{"random ports on both sides", routers{random}, routers{random}, false},
		{"one side public", nil, routers{plain}, true},
		{"one side public, the other with random ports", nil, routers{random}, true},
		{"no UDP on one side", routers{noUDP}, routers{plain}, true},
		{"no UDP on both sides", routers{noUDP}, routers{noUDP}, true},
		{"nothing but port 443 on one side", routers{web}, routers{plain}, false},
		{"nothing but port 443 on both sides", routers{web}, routers{web}, false},
		{"two routers in a row on one side", routers{plain, plain}, routers{plain}, true},
		{"a router that maps ports, and random ports", routers{{Maps: true}}, routers{random}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t, c.a, c.b)
			var first, direct []time.Duration
			ways := map[string]int{}
			for range runs {
				m := h.meet(c.direct)
				if m.first == 0 {
					t.Errorf("an edit does not arrive within 40 s; ways %q", m.ways)
					continue
				}
				first = append(first, m.first)
				if m.direct > 0 {
					direct = append(direct, m.direct)
				}
				ways[strings.Join(m.ways[:], " / ")]++
			}
			t.Logf("%-45s first chunk %s; direct %d of %d %s; ways %v", c.name, spread(first), len(direct), runs, spread(direct), ways)
			if c.direct && len(direct) < runs*9/10 {
				t.Errorf("%d of %d runs became direct", len(direct), runs)
			}
			if slow := len(first) > 0 && slices.Max(first) > 10*time.Second; slow {
				t.Errorf("the slowest first chunk takes %v", slices.Max(first))
			}
		})
	}
}

// spread shows the median and the largest.
func spread(list []time.Duration) string {
	if len(list) == 0 {
		return "never"
	}
	list = slices.SortedFunc(slices.Values(list), cmp.Compare)
	return fmt.Sprintf("%v, at most %v", list[len(list)/2].Round(10*time.Millisecond), list[len(list)-1].Round(10*time.Millisecond))
}

// TestNATMove: in the middle of a transfer the provider gives one side another address. Nothing is lost, and it goes on.
func TestNATMove(t *testing.T) {
	heavy(t)
	for i, moved := range []string{"of who sends", "of who receives"} {
		t.Run(moved, func(t *testing.T) {
			h := newHome(t, []natbed.Router{{}}, []natbed.Router{{}})
			h.during(func() { h.at[i].Move() })
		})
	}
}

// TestNATAnchor: in the middle of a transfer through the anchor, the anchor is killed and comes again.
func TestNATAnchor(t *testing.T) {
	heavy(t)
	h := newHome(t, []natbed.Router{{RandomPorts: true}}, []natbed.Router{{RandomPorts: true}})
	h.during(func() {
		h.anchor.kill()
		h.anchor.start()
	})
}

// during has one site bring many records to the other, does something in the middle of it, and sees that they all arrive.
func (h *home) during(what func()) {
	t := h.t
	t.Helper()
	one, two := h.site[0], h.site[1]
	one.start()
	one.patients(7, 400)
	want := one.export()
	documents := func(s *site) int {
		st, err := s.client.Status(t.Context(), "")
		must(t, err)
		return st.Documents
	}
	all, had := documents(one), 0
	two.start()
	began := time.Now()
	if _, ok := h.until(began, time.Minute, func() bool { had = documents(two); return had > all/10 }); !ok {
		t.Fatal("nothing arrives")
	}
	before := [2]string{h.way(0), h.way(1)}
	what()
	moved := time.Now()
	had = documents(two)
	if had == all {
		t.Fatal("all had arrived before")
	}
	stalled, ok := h.until(moved, 2*time.Minute, func() bool { return documents(two) > had+all/20 })
	if !ok {
		t.Fatalf("nothing more arrives: %d of %d documents; ways %q and %q", documents(two), all, h.way(0), h.way(1))
	}
	whole, ok := h.until(moved, 3*time.Minute, func() bool { return documents(two) == all })
	if !ok {
		t.Fatalf("%d of %d documents arrive", documents(two), all)
	}
	two.inSync()
	if !bytes.Equal(want, two.export()) {
		t.Error("the exports differ")
	}
	t.Logf("%d documents, %.1f MB; at %d of them by %v; goes on after %v, all there after %v, by %q and %q", all, float64(len(want))/1e6, had,
		before, stalled.Round(10*time.Millisecond), whole.Round(10*time.Millisecond), h.way(0), h.way(1))
}

// TestNATMapping: an agent behind a router that maps ports says at which public address it is reached.
func TestNATMapping(t *testing.T) {
	bed := natbed.New(t)
	at := bed.Behind("surgery", natbed.Router{Maps: true})
	s := newSite(t, t.TempDir(), "surgery")
	s.netns, s.all, s.noMDNS = at.Netns, true, true
	s.mustRun("init", "--practice", "Praxis", "--site", s.name, "--device", s.name)
	s.start()
	begun := time.Now()
	for {
		st, err := s.client.Status(t.Context(), "")
		must(t, err)
		if n := strings.Count(strings.Join(st.Addresses, " "), "/ip4/"+at.Routers[0].Addr+"/"); n == 2 {
			break
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("its addresses are %q", st.Addresses)
		}
		wait(t, 50*time.Millisecond)
	}
	t.Logf("mapped after %v", time.Since(begun).Round(10*time.Millisecond))
}
