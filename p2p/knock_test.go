package p2p_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"chartmesh/internal/fuzzing"
	"chartmesh/p2p"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// removed is the judgement of a site on who was removed: strike is the entry by which back belongs, and out does not.
type removed struct {
	members   *members
	replica   *sessiontest.Replica
	former    func(trust.DeviceID) bool
	strike    []byte
	back, out trust.DeviceID

	mu    sync.Mutex
	asked []trust.DeviceID
}

func (r *removed) Former(d trust.DeviceID) bool { return r.former(d) && !r.members.admit(d) }

func (r *removed) Readmit(ctx context.Context, from trust.DeviceID, entries [][]byte) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, from)
	if from != r.back || !slices.ContainsFunc(entries, func(e []byte) bool { return bytes.HasSuffix(e, r.strike) }) {
		return false, nil
	}
	err := r.replica.AddEntries(ctx, from, entries)
	r.members.set1(r.back, true)
	r.members.set1(r.out, false)
	return true, err
}

func (r *removed) times(d trust.DeviceID) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.asked {
		if o == d {
			n++
		}
	}
	return n
}

// TestKnock: A and B have removed each other, and M heard of B's removal of A alone. A, which prevails, brings M its own, whichever of
// the two opens the stream; B is cut off then, and knocks in vain.
func TestKnock(t *testing.T) {
	less := func(i, j int) bool {
		x, y := newIdentity(i).Device(), newIdentity(j).Device()
		return bytes.Compare(x[:], y[:]) < 0
	}
	one, two := 1, 2
	if !less(one, two) {
		one, two = two, one
	}
	for name, numbers := range map[string][2]int{"A opens": {one, two}, "M opens": {two, one}} {
		t.Run(name, func(t *testing.T) {
			idA, idM, idB := newIdentity(numbers[0]).Device(), newIdentity(numbers[1]).Device(), newIdentity(3).Device()
			strike := []byte("A removes B")
			ofA, ofM, ofB := &members{}, &members{}, &members{}
			for _, m := range []*members{ofA, ofM, ofB} {
				m.set1(idM, true)
			}
			ofA.set1(idA, true)
			ofM.set1(idB, true)
			ofB.set1(idB, true)
			back := &removed{members: ofM, former: func(d trust.DeviceID) bool { return d == idA || d == idB },
				strike: strike, back: idA, out: idB}
			m := newSite(t, numbers[1], ofM, func(c *p2p.Config) {
				c.Readmission = back
				back.replica = c.Replica.(*sessiontest.Replica)
			})
			b := newSite(t, 3, ofB, nil)
			b.Enter([]byte("B removes A"))
			b.SetPeers([]p2p.PeerAddr{m.at()})
			b.edit("of B, before")
			wait(t, "B and M agree", agreed(b, m))

			a := newSite(t, numbers[0], ofA, nil)
			a.Enter(strike)
			a.edit("of A, apart")
			m.edit("of M, apart")
			a.SetPeers([]p2p.PeerAddr{m.at()})
			wait(t, "A and M agree", agreed(a, m))
			if !same(a, m)() || len(a.Vector(clinical)) != 3 || a.Entries() != 3 || m.Entries() != 3 {
				t.Errorf("A holds %v and %d entries, M %v and %d", a.Vector(clinical), a.Entries(), m.Vector(clinical), m.Entries())
			}
			if n := back.times(idA); n != 1 {
				t.Errorf("A knocked %d times", n)
			}

			b.Enter([]byte("B fills the log"))
			wait(t, "B was told", func() bool { return b.peer(idM).Reason == p2p.ReasonRemoved })
			a.edit("of A, after")
			wait(t, "it arrives", func() bool { return same(a, m)() })
			if same(b, m)() || m.peer(idB).Connected || m.Entries() != 3 || b.Entries() != 3 {
				t.Errorf("B, removed: M has %d entries, B %d", m.Entries(), b.Entries())
			}
			if n := back.times(idB); n != 1 {
				t.Errorf("B knocked %d times", n)
			}
		})
	}
}

// reach connects somebody to a site, and reports whether the site keeps the connection.
func (s *site) reach(t *testing.T, h host.Host) bool {
	t.Helper()
	id, err := p2p.PeerID(s.id.Device())
	if err != nil {
		t.Fatal(err)
	}
	if h.Connect(t.Context(), peer.AddrInfo{ID: id, Addrs: parse(t, s.Addresses())}) != nil {
		return false
	}
	stream, err := h.NewStream(t.Context(), id, p2p.SyncProtocol) // waits until the other side has said what it speaks
	if err != nil {
		return false
	}
	_ = stream.Reset()
	return true
}

// say opens a stream to a site, writes on it, and returns the answer.
func (s *site) say(t *testing.T, h host.Host, proto protocol.ID, b []byte) ([]byte, error) {
	t.Helper()
	id, err := p2p.PeerID(s.id.Device())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := h.NewStream(network.WithNoDial(t.Context(), "connected"), id, proto)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Reset() }()
	_, _ = stream.Write(b)
	if len(b) > 4 && uint32(len(b)) < 4+binary.BigEndian.Uint32(b) {
		_ = stream.CloseWrite() // else the site waits for the rest
	}
	_ = stream.SetReadDeadline(time.Now().Add(10 * time.Second))
	return io.ReadAll(io.LimitReader(stream, 5)) // and not for the end of the stream, which may wait for ours
}

func framed(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// TestHostileKnock: a removed device that knocks gets one byte at most, whatever it says, enters nothing, speaks no other protocol, and
// is not let in again for long; the site serves others as before.
func TestHostileKnock(t *testing.T) {
	for name, listen := range map[string][]string{"quic": quicOnly, "tcp": tcpOnly} {
		t.Run(name, func(t *testing.T) {
			m := &members{}
			m.set1(newIdentity(1).Device(), true)
			back := &removed{members: m}
			former := map[trust.DeviceID]bool{}
			for i := 60; i < 70; i++ {
				former[newIdentity(i).Device()] = true
			}
			back.former = func(d trust.DeviceID) bool { return former[d] }
			s := newSite(t, 1, m, func(c *p2p.Config) { c.Readmission, c.Root, c.Listen = back, roots, listen })
			s.edit("secret")
			s.answers(t)

			long := binary.BigEndian.AppendUint32(nil, p2p.MaxJoinAnswer+1)
			whole := framed(p2p.EncodeKnock([][]byte{[]byte("\x00filler")}))
			for i, frame := range [][]byte{long, whole[:len(whole)-1], framed([]byte("cmkn\x02\x00")), framed(append(p2p.EncodeKnock(nil), 0))} {
				h := newStranger(t, 60+i)
				if !s.reach(t, h) {
					t.Fatalf("frame %d: a removed device was not heard", i)
				}
				if got, err := s.say(t, h, p2p.KnockProtocol, frame); err == nil || len(got) > 0 {
					t.Errorf("frame %d: %x, %v", i, got, err)
				}
				if got, err := s.say(t, h, p2p.KnockProtocol, whole); err == nil || len(got) > 0 {
					t.Errorf("frame %d, and again: %x, %v", i, got, err)
				}
				wait(t, "the connection is closed", func() bool { return len(h.Network().Conns()) == 0 })
				if s.reach(t, h) {
					t.Errorf("frame %d: it was let in again", i)
				}
			}
			if len(back.asked) > 0 {
				t.Error("what is malformed was weighed")
			}

			h := newStranger(t, 64)
			if !s.reach(t, h) {
				t.Fatal("a removed device was not heard")
			}
			for _, proto := range []protocol.ID{p2p.SyncProtocol, p2p.JoinProtocol, p2p.RecoverProtocol} {
				if got, err := s.say(t, h, proto, framed([]byte("cmrc\x01\x00"))); err == nil || len(got) > 0 {
					t.Errorf("%s: %x, %v", proto, got, err)
				}
			}
			if got, err := s.say(t, h, p2p.KnockProtocol, whole); err != nil || !bytes.Equal(got, framed([]byte{p2p.KnockRefused})) {
				t.Errorf("the answer is %x, %v", got, err)
			}
			wait(t, "the connection is closed", func() bool { return len(h.Network().Conns()) == 0 })
			if s.reach(t, h) {
				t.Error("it was let in again")
			}
			if s.Entries() != 1 || len(s.Peers()) != 0 {
				t.Errorf("%d entries, peers %+v", s.Entries(), s.Peers())
			}
			if h := newStranger(t, 71); s.reach(t, h) {
				t.Error("a stranger was let in")
			}
		})
	}
}

// removedByOne is the judgement of a host that holds several practices: a device that one has removed may be another's member.
type removedByOne struct{ *removed }

func (r removedByOne) Former(d trust.DeviceID) bool { return r.former(d) }

// TestKnockOfAnothersMember: a device that is let in as a member of one practice is heard as one that another has removed, as often as any,
// also where the one has no room for it.
func TestKnockOfAnothersMember(t *testing.T) {
	for _, room := range []bool{true, false} {
		m := &members{}
		idX, idY := newIdentity(60).Device(), newIdentity(61).Device()
		m.set1(idX, true)
		m.set1(idY, true)
		back := &removed{members: m, former: func(d trust.DeviceID) bool { return d == idX }}
		s := newSite(t, 1, m, func(c *p2p.Config) {
			c.Readmission, c.Listen, c.Enters = removedByOne{back}, quicOnly, func(trust.DeviceID) bool { return room }
		})
		if y := newStranger(t, 61); s.reach(t, y) != room {
			t.Errorf("room %v: one that is no other practice's", room)
		}
		x := newStranger(t, 60)
		if !s.reach(t, x) {
			t.Fatalf("room %v: a removed device was not heard", room)
		}
		whole := framed(p2p.EncodeKnock([][]byte{[]byte("\x00filler")}))
		if got, err := s.say(t, x, p2p.KnockProtocol, whole); err != nil || !bytes.Equal(got, framed([]byte{p2p.KnockRefused})) {
			t.Errorf("room %v: the answer is %x, %v", room, got, err)
		}
		if got, err := s.say(t, x, p2p.KnockProtocol, whole); err == nil || len(got) > 0 || back.times(idX) != 1 {
			t.Errorf("room %v, and again: %x, %v", room, got, err)
		}
		if room {
			y := newStranger(t, 61)
			if !s.reach(t, y) {
				t.Fatal("a member is not let in")
			}
			if got, err := s.say(t, y, p2p.KnockProtocol, whole); err != nil || !bytes.Equal(got, framed([]byte{p2p.KnockTaken})) || back.times(idY) != 0 {
				t.Errorf("a member that knocks: %x, %v", got, err)
			}
		}
	}
}

// TestKnocks holds how often a removed device costs a connection.
func TestKnocks(t *testing.T) {
	now := time.Now()
	id := func(i int) trust.DeviceID { return newIdentity(i).Device() }
	k := p2p.NewKnocks()
	if k.Inside(id(1), now) || !k.Enter(id(1), now) || !k.Inside(id(1), now) {
		t.Error("the first is not let in")
	}
	if k.Enter(id(1), now.Add(p2p.KnockSoon-1)) || !k.Enter(id(1), now.Add(p2p.KnockSoon)) {
		t.Error("one that has not knocked may come again after a while")
	}
	now = now.Add(p2p.KnockSoon)
	if !k.Use(id(1), now) || k.Use(id(1), now) || !k.Inside(id(1), now) {
		t.Error("one that was let in may knock once")
	}
	if k.Done(id(1)); k.Inside(id(1), now) || k.Use(id(1), now) {
		t.Error("and is done then")
	}
	if k.Use(id(2), now) {
		t.Error("one that was not let in may not knock")
	}
	if k.Enter(id(1), now.Add(p2p.KnockAgain-1)) || !k.Enter(id(1), now.Add(p2p.KnockAgain)) {
		t.Error("one that has knocked may come again after long")
	}
	now = now.Add(p2p.KnockAgain)
	k.Readmitted(id(1))
	in := 0
	for i := range 2 * p2p.MaxKnocking {
		if k.Enter(id(i), now) {
			in++
		}
	}
	if in != p2p.MaxKnocking {
		t.Errorf("%d at once", in)
	}
	in = 0
	for i := range 1000 { // as many as come in a second, each with another key
		if k.Enter(id(100+i), now.Add(time.Hour)) {
			k.Use(id(100+i), now.Add(time.Hour))
			k.Done(id(100 + i))
			in++
		}
	}
	if in == 0 || in > 8 {
		t.Errorf("%d in a moment", in)
	}
}

func FuzzKnock(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error {
		again, err := p2p.ReencodeKnock(b)
		if err == nil && !bytes.Equal(again, b) {
			err = errors.New("comes back as something else")
		}
		return err
	}, p2p.EncodeKnock(nil), p2p.EncodeKnock([][]byte{[]byte("one"), []byte(fuzzing.Canary), bytes.Repeat([]byte{7}, 300)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 80, 8<<10, func() { again, err = p2p.ReencodeKnock(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(again, b) {
			t.Fatalf("%x becomes %x", b, again)
		}
	})
}
