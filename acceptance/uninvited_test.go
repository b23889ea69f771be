package acceptance

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"chartmesh/chunk"
	"chartmesh/p2p"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
	"chartmesh/wire"
)

// taken is the status by which a relay grants, refused the one by which it does not.
const (
	taken   = 100
	refused = 202
)

// attempt is one thing said to an anchor.
type attempt struct {
	name  string
	proto protocol.ID
	say   []byte
}

// attempts are what somebody says who knows all of a practice but has no right to it: at every protocol that an anchor serves, and at
// those that devices do.
func attempts(t *testing.T, as p2p.Identity, a *running, of *office) []attempt {
	t.Helper()
	victim, practice := of.members[0], of.state.Practice()
	device := victim.keys.Device()
	locator := func(kind byte) []byte {
		var w wire.Writer
		w.Raw([]byte{'c', 'm', 'i', 'n', 1, kind})
		if kind == 1 {
			w.Uvarint(1)
		}
		w.Uvarint(theLocator)
		return framed(w.Bytes())
	}
	return []attempt{
		{"sync", p2p.SyncProtocol, asksForAll(t, as.Device(), a.device(), victim)},
		{"asks for an invitation", p2p.IntroduceProtocol, locator(2)},
		{"asks for a place", hopProtocol, reserve()},
		{"asks for a circuit", hopProtocol, circuit(device)},
		{"claims a circuit", stopProtocol, circuit(device)},
		{"asks who is there", identifyProtocol, nil},
		{"says who is there", pushProtocol, delimited(nil)},
		{"recovers", p2p.RecoverProtocol, framed([]byte{'c', 'm', 'r', 'c', 1, 0})},
		{"knocks", p2p.KnockProtocol, framed([]byte{'c', 'm', 'k', 'n', 1, 0})},
		{"asks a voter", p2p.QuorumProtocol, framed(slices.Concat([]byte{'c', 'm', 'q', 'p', 1}, practice[:], []byte{2}))},
		{"joins", p2p.JoinProtocol, framed([]byte{1})},
		{"pings", "/ipfs/ping/1.0.0", make([]byte, 32)},
		{"punches", "/libp2p/dcutr", delimited([]byte{0x08, 100})},
		{"finds out its address", "/libp2p/autonat/2/dial-request", delimited(nil)},
		{"says nothing that there is", "/chartmesh/none/1.0.0", nil},
	}
}

// theLocator is the public part of the invitation that is open in these tests.
const theLocator = 4_242_424

// secretsOf lists what nobody may get of a practice: its ID, its entries and chunks, its scopes, logs and devices.
func secretsOf(t *testing.T, o *office) []planted {
	t.Helper()
	st := o.state
	id := st.Practice()
	list := []planted{{"the practice's ID", id[:], false}}
	for i, e := range st.Entries() {
		b := e.Bytes()
		list = append(list, planted{fmt.Sprintf("the end of entry %d", i), b[len(b)-40:], false})
		if i > 0 {
			id := e.ID()
			list = append(list, planted{fmt.Sprintf("the ID of entry %d", i), id[:], false})
		}
	}
	for _, s := range st.Scopes() {
		list = append(list, planted{"a scope", bytes.Clone(s.ID[:]), false})
	}
	for i, m := range o.members {
		d, log := m.keys.Device(), chunk.CurrentLog(m.keys)
		name, err := p2p.PeerID(d)
		must(t, err)
		list = append(list, planted{fmt.Sprintf("the key of device %d", i), d[:], false}, planted{fmt.Sprintf("the log of device %d", i), log[:], false},
			planted{fmt.Sprintf("the peer ID of device %d", i), []byte(name.String()), true})
		items, err := m.Chunks(m.scope(), log, 0, 1<<20)
		must(t, err)
		for j, it := range items {
			list = append(list, planted{fmt.Sprintf("chunk %d of device %d", j, i), it.Bytes[len(it.Bytes)-48:], false})
		}
	}
	return list
}

// uninvited are a practice with an anchor and those who have no right to it.
type uninvited struct {
	t       *testing.T
	anchor  *running
	office  *office
	other   *office
	removed *keyring.Keyring
	secrets *needles
}

// newUninvited founds two practices on one anchor, the first of which removes a device and has records that the anchor holds.
func newUninvited(t *testing.T) *uninvited {
	t.Helper()
	u := &uninvited{t: t, anchor: newAnchor(t, t.TempDir(), "frankfurt"), removed: newKeys(t)}
	u.office, u.other = newOffice(t, "Praxis Berg", 2, u.anchor), newOffice(t, "Praxis Tal", 1, u.anchor)
	first := u.office.members[0]
	first.writes("what only the practice may have")
	for _, o := range []*office{u.office, u.other} {
		u.anchor.admit(o.token(u.anchor))
	}
	first.connect(u.anchor.peerOf("quic"))
	until(t, 30*time.Second, "the anchor has the chunk", func() bool { return first.agrees(u.anchor) })
	enter := func(e trust.Entry, err error) {
		t.Helper()
		u.office.enter(e, err)
		first.state.Store(u.office.state)
		first.host.MembershipChanged()
		until(t, 30*time.Second, "the anchor has heard of the change", func() bool {
			return u.anchor.status().Practices[0].Devices == len(u.office.state.Members()) && first.agrees(u.anchor)
		})
	}
	enter(first.keys.Admit(u.office.state, keyring.Newcomer{Device: u.removed.Device(), HPKE: u.removed.HPKEPublic(), DeviceName: "removed", SiteName: "site", Now: time.Now()}))
	enter(first.keys.Remove(u.office.state, u.removed.Device(), nil, time.Now()))
	first.writes("written after the removal")
	until(t, 30*time.Second, "the anchor has the second chunk", func() bool { return u.anchor.chunks() == 2 && first.agrees(u.anchor) })
	u.secrets = newNeedles(t, secretsOf(t, u.office)...)
	return u
}

// tries says everything as somebody, over one transport, and returns what came.
func (u *uninvited) tries(as p2p.Identity, transport string) map[string][]byte {
	u.t.Helper()
	c, at := newCaller(u.t, as), u.anchor.at(transport)
	defer func() { must(u.t, c.host.Close()) }()
	c.sync = asksForAll(u.t, as.Device(), u.anchor.device(), u.office.members[0])
	var all sync.WaitGroup
	for _, x := range attempts(u.t, as, u.anchor, u.office) {
		all.Go(func() { c.says(at, x) })
	}
	all.Wait()
	return c.heard()
}

// no is the answer to a removed device that knocks and does not belong.
var no = framed([]byte{2})

// TestUninvited: a stranger, also one who has a token, a removed device and one of another practice get nothing of a practice from the
// anchor, whatever they say; a removed one hears no when it knocks, once, and is told of the anchor what every connection tells. A member who says the same gets all, so that the anchor understands what they say.
func TestUninvited(t *testing.T) {
	u := newUninvited(t)
	stranger, member := newKeys(t), u.office.members[1].keys

	// The token of a third practice was stolen, before its device came.
	third := newOffice(t, "Praxis Dritte", 1, u.anchor)
	thief := newKeys(t)
	u.anchor.admit(third.token(u.anchor))

	late := &uninvited{t: t, anchor: u.anchor, office: third, secrets: newNeedles(t, secretsOf(t, third)...)}
	for _, transport := range []string{"quic", "tcp"} {
		var all sync.WaitGroup
		for _, x := range []struct {
			who  string
			keys p2p.Identity
			*uninvited
		}{{"a stranger", stranger, u}, {"a removed device", u.removed, u}, {"the thief of a token", thief, late}, {"another practice's device", u.other.members[0].keys, u}} {
			all.Go(func() {
				for name, b := range x.tries(x.keys, transport) {
					knocking := false
					if x.keys == u.removed && transport == "quic" { // the first time
						switch name {
						case "knocks":
							if knocking = bytes.Equal(b, no); !knocking {
								t.Errorf("%s who %s gets %d bytes that are no no", x.who, name, len(b))
							}
						case "asks for a place", "asks for a circuit":
							knocking = statusOf(b) == refused
						case "asks who is there":
							knocking = true
						}
					}
					if len(b) > 0 && !knocking && x.keys != u.other.members[0].keys {
						t.Errorf("%s who %s over %s gets %d bytes", x.who, name, transport, len(b))
					}
					if name == "asks for a circuit" && x.keys == u.other.members[0].keys && statusOf(b) != refused {
						t.Errorf("%s who %s over %s hears %d", x.who, name, transport, statusOf(b))
					}
					x.secrets.absent(t, fmt.Sprintf("%s who %s over %s", x.who, name, transport), b)
				}
			})
		}
		all.Wait()

		got, missing := u.member(member, transport)
		for _, what := range missing {
			t.Errorf("a member gets no %s over %s by what the others said", what, transport)
		}
		u.onlyKnown(got["asks who is there"])
	}

	// Nor does it tell which devices are there: one that is connected is refused in the words of one that does not exist.
	c, at := newCaller(t, u.other.members[0].keys), u.anchor.at("quic")
	c.says(at, attempt{"connected", hopProtocol, circuit(u.office.members[0].keys.Device())})
	c.says(at, attempt{"nobody", hopProtocol, circuit(newKeys(t).Device())})
	connected, nobody := c.heard()["connected"], c.heard()["nobody"]
	if !bytes.Equal(connected, nobody) || len(nobody) == 0 {
		t.Errorf("a circuit to a connected device is refused in %d bytes, one to nobody in %d others", len(connected), len(nobody))
	}
}

// member says what the others said as a member does, who gets all of it, and returns what was heard and what of it is missing. A machine
// that is busy answers late, so that a member who did not hear all within a caller's patience asks again.
func (u *uninvited) member(as p2p.Identity, transport string) (got map[string][]byte, missing []string) {
	u.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		got, missing = u.tries(as, transport), nil
		found := u.secrets.in(got["sync"])
		for _, want := range []string{"the practice's ID in bytes", "the end of entry 1 in bytes", "chunk 0 of device 0 in bytes", "chunk 1 of device 0 in bytes", "the log of device 0 in bytes"} {
			if found[want] == 0 {
				missing = append(missing, want)
			}
		}
		for _, name := range []string{"asks for a place", "asks for a circuit"} {
			if s := statusOf(got[name]); s != taken {
				missing = append(missing, fmt.Sprintf("yes when it %s (hears %d)", name, s))
			}
		}
		if len(missing) == 0 || time.Now().After(end) {
			return got, missing
		}
	}
}

// onlyKnown holds that the anchor serves no protocol that these tests do not try.
func (u *uninvited) onlyKnown(identify []byte) {
	u.t.Helper()
	tried := attempts(u.t, u.removed, u.anchor, u.office)
	served := 0
	for _, piece := range bytes.Split(identify, []byte("\x1a")) { // protocols: field 3, each behind its length
		if len(piece) < 2 || int(piece[0]) >= len(piece) || piece[1] != '/' {
			continue
		}
		proto := protocol.ID(piece[1 : 1+piece[0]])
		served++
		if !slices.ContainsFunc(tried, func(x attempt) bool { return x.proto == proto }) {
			u.t.Errorf("the anchor serves %s, which is not tried", proto)
		}
	}
	if served < 4 {
		u.t.Errorf("the anchor names %d protocols", served)
	}
}

// TestUninvitedWhileInvited: while a member takes newcomers strangers are let in to be brought to that member, and get nothing else.
func TestUninvitedWhileInvited(t *testing.T) {
	u := newUninvited(t)
	stranger := newKeys(t)
	inviter := newCaller(t, u.office.members[1].keys)
	at := u.anchor.at("quic")
	var w wire.Writer
	w.Raw([]byte{'c', 'm', 'i', 'n', 1, 1, 1})
	w.Uvarint(theLocator)
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		inviter.says(at, attempt{"takes newcomers", p2p.IntroduceProtocol, framed(w.Bytes())})
	}()
	<-opened
	if b := inviter.heard()["takes newcomers"]; !bytes.Equal(b, framed([]byte{1})) {
		t.Fatalf("the anchor answers the inviter with %d bytes", len(b))
	}
	for _, transport := range []string{"quic", "tcp"} {
		inviterKey := u.office.members[1].keys.Device()
		for who, keys := range map[string]p2p.Identity{"a stranger": stranger, "a removed device": u.removed} {
			for name, b := range u.tries(keys, transport) {
				switch name {
				case "asks for an invitation": // who knows its public part hears who the inviter is
					if !bytes.Equal(b, framed(append([]byte{1}, inviterKey[:]...))) {
						t.Errorf("%s who asks for the invitation over %s gets %d bytes that are not the inviter's key", who, transport, len(b))
					}
					continue
				case "sync", "recovers", "knocks", "joins", "pings", "punches":
					if len(b) > 0 && !(name == "knocks" && keys == u.removed && transport == "quic" && bytes.Equal(b, no)) {
						t.Errorf("with an invitation open, %s who %s over %s gets %d bytes", who, name, transport, len(b))
					}
				case "asks for a place", "asks for a circuit":
					if s := statusOf(b); s != refused {
						t.Errorf("with an invitation open, %s who %s over %s hears %d", who, name, transport, s)
					}
				}
				u.secrets.absent(t, fmt.Sprintf("with an invitation open, %s who %s over %s", who, name, transport), b)
			}
		}
	}
}
