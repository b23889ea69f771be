package p2p_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/internal/fuzzing"
	"chartmesh/p2p"
	"chartmesh/p2p/lan"
	"chartmesh/trust"
)

// office keeps invites as an agent would, in memory.
type office struct {
	mu      sync.Mutex
	members *members
	invites map[p2p.InviteID]*invite
	log     [][]byte
	counted int
	failing error
	// confirm decides on a newcomer; nil: nobody is asked.
	confirm func(context.Context, p2p.Newcomer) error
}

type invite struct {
	key     p2p.JoinKey
	locator lan.Locator
	expires time.Time
	tries   int
	by      *p2p.Newcomer
	answer  [][]byte
}

func (o *office) Open() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.invites) > 0
}

func (o *office) Locators() (list []lan.Locator) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, i := range o.invites {
		if i.locator != 0 {
			list = append(list, i.locator)
		}
	}
	return list
}

func (o *office) Terms(id p2p.InviteID) (p2p.Terms, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.invites[id]
	if i == nil {
		return p2p.Terms{}, p2p.RefusedUnknown
	}
	return p2p.Terms{Key: i.key, Role: trust.RoleMember, Founding: sha256.Sum256(o.log[0]), HPKE: [32]byte{7}}, nil
}

func (o *office) Count(_ context.Context, id p2p.InviteID) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failing != nil {
		return o.failing
	}
	if o.invites[id].tries >= 5 {
		return p2p.RefusedTries
	}
	o.counted++
	o.invites[id].tries++
	return nil
}

func (o *office) Redeem(ctx context.Context, id p2p.InviteID, n p2p.Newcomer, waiting func()) ([][]byte, error) {
	o.mu.Lock()
	confirm := o.confirm
	o.invites[id].tries--
	o.mu.Unlock()
	if confirm != nil {
		waiting()
		if err := confirm(ctx, n); err != nil {
			return nil, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.invites[id]
	switch {
	case i.by != nil && i.by.Device == n.Device && slices.Equal(i.by.HPKE, n.HPKE):
		return i.answer, nil
	case i.by != nil:
		return nil, p2p.RefusedUsed
	case time.Now().After(i.expires):
		return nil, p2p.RefusedExpired
	}
	i.by = &n
	o.log = append(o.log, append([]byte("add "), n.Device[:]...))
	i.answer = slices.Clone(o.log)
	o.members.set1(n.Device, true)
	return i.answer, nil
}

func (o *office) founding() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log[0]
}

func (o *office) tries() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counted
}

// invite opens an invitation at s, by a code.
func (o *office) invite(t *testing.T, s *site, expires time.Duration) p2p.Code {
	t.Helper()
	id := sha256.Sum256(o.founding())
	c, err := p2p.NewCode(rand.Reader, p2p.Code{Role: trust.RoleMember, Inviter: s.id.Device(), Founding: [16]byte(id[:16]),
		Expires: time.Now().Add(expires), Addrs: s.Addresses()})
	if err != nil {
		t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.invites[c.Invite()] = &invite{key: c.Key(), expires: time.Now().Add(expires)}
	return c
}

// speak opens an invitation by words.
func (o *office) speak(t *testing.T) p2p.Words {
	t.Helper()
	w, err := p2p.NewWords(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	i := w.Invitation()
	o.invites[i.ID] = &invite{key: i.Key, locator: w.Locator, expires: time.Now().Add(time.Hour)}
	return w
}

func newOffice(t *testing.T) (*office, *site) {
	o := &office{members: &members{}, invites: map[p2p.InviteID]*invite{}, log: [][]byte{[]byte("founding entry")}}
	o.members.set1(newIdentity(1).Device(), true)
	s := newSite(t, 1, o.members, func(c *p2p.Config) {
		c.Invites, c.Listen = o, []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}
	})
	wait(t, "others are let in", s.Opened)
	return o, s
}

func joinConfig(i int, inv p2p.Invitation) p2p.JoinConfig {
	return p2p.JoinConfig{Identity: newIdentity(i), Invitation: inv, Timeout: 5 * time.Second,
		Newcomer: p2p.Newcomer{HPKE: []byte("public key"), DeviceName: "reception", SiteName: "branch"}}
}

func join(t *testing.T, i int, c p2p.Code) (p2p.JoinResult, error) {
	t.Helper()
	return p2p.Join(t.Context(), joinConfig(i, c.Invitation()))
}

func TestJoin(t *testing.T) {
	o, s := newOffice(t)
	c := o.invite(t, s, time.Hour)
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	typed, err := p2p.ParseCode(strings.ToUpper(text[:20]) + " -\n" + text[20:])
	if err != nil {
		t.Fatal(err)
	}
	r, err := join(t, 2, typed)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Entries) != 2 || !bytes.Equal(r.Entries[0], o.founding()) || r.Inviter.Device != s.id.Device() ||
		len(r.Inviter.Addrs) == 0 || r.Role != trust.RoleMember || r.HPKE != [32]byte{7} {
		t.Errorf("result: %+v", r)
	}
	if by := o.invites[c.Invite()].by; by.DeviceName != "reception" || by.SiteName != "branch" || string(by.HPKE) != "public key" {
		t.Errorf("the newcomer is %+v", by)
	}
	refused := func(t *testing.T, c p2p.Code, want p2p.Refusal) {
		t.Helper()
		r, err := join(t, 3, c)
		if why, ok := errors.AsType[p2p.Refusal](err); !ok || why != want || !errors.Is(err, p2p.ErrRefused) || r.Entries != nil {
			t.Errorf("%v, %d entries", err, len(r.Entries))
		}
	}
	t.Run("the same newcomer again, whose answer was lost", func(t *testing.T) {
		again, err := join(t, 2, typed)
		if err != nil || !slices.EqualFunc(again.Entries, r.Entries, bytes.Equal) {
			t.Errorf("%v, %d entries", err, len(again.Entries))
		}
	})
	t.Run("another with the used code", func(t *testing.T) { refused(t, typed, p2p.RefusedUsed) })
	t.Run("wrong code", func(t *testing.T) {
		wrong := o.invite(t, s, time.Hour)
		wrong.Secret[3] ^= 1
		refused(t, wrong, p2p.RefusedUnknown)
	})
	t.Run("expired code", func(t *testing.T) { refused(t, o.invite(t, s, -time.Minute), p2p.RefusedExpired) })
	t.Run("inviter that does not know the code's key", func(t *testing.T) {
		c := o.invite(t, s, time.Hour)
		o.mu.Lock()
		o.invites[c.Invite()].key[0] ^= 1
		o.mu.Unlock()
		refused(t, c, p2p.RefusedUnknown)
	})
	t.Run("code of another practice at the same device", func(t *testing.T) {
		other := o.invite(t, s, time.Hour)
		inv := other.Invitation()
		inv.Founding[0] ^= 1
		if r, err := p2p.Join(t.Context(), joinConfig(3, inv)); err == nil || r.Entries != nil {
			t.Errorf("%v, %d entries", err, len(r.Entries))
		}
	})
	if n := o.tries(); n != 5 {
		t.Errorf("%d tries counted", n)
	}
	t.Run("tries that cannot be counted are not judged", func(t *testing.T) {
		c := o.invite(t, s, time.Hour)
		o.mu.Lock()
		o.failing = errors.New("the disk is full")
		o.mu.Unlock()
		refused(t, c, p2p.RefusedNow)
		o.mu.Lock()
		o.failing = nil
		o.mu.Unlock()
	})

	// The newcomer is a member now and syncs.
	b := newSite(t, 2, o.members, nil)
	b.SetPeers([]p2p.PeerAddr{r.Inviter})
	s.edit("for members")
	wait(t, "the newcomer syncs", func() bool { return agreed(s, b)() && same(s, b)() })
}

// TestJoinByWords joins with words alone: at an address that names no device, over each transport, and found by asking
// those who claim to have the invitation.
func TestJoinByWords(t *testing.T) {
	o, s := newOffice(t)
	for i, a := range s.Addresses() {
		m, err := ma.NewMultiaddr(a)
		if err != nil {
			t.Fatal(err)
		}
		m, _ = peer.SplitAddr(m)
		inv, err := p2p.ParseInvitation(o.speak(t).Text())
		if err != nil {
			t.Fatal(err)
		}
		cfg := joinConfig(10+i, inv)
		cfg.Addrs = []string{m.String()}
		r, err := p2p.Join(t.Context(), cfg)
		if err != nil || r.Inviter.Device != s.id.Device() {
			t.Fatalf("at %s: %+v, %v", m, r, err)
		}
	}
}

// TestConfirm has the administrator asked: the newcomer hears that, and then yes or no; one that hangs up is forgotten.
func TestConfirm(t *testing.T) {
	o, s := newOffice(t)
	said := make(chan error)
	asked := make(chan string, 1)
	ended := make(chan error, 1)
	o.confirm = func(ctx context.Context, n p2p.Newcomer) error {
		asked <- n.Fingerprint()
		select {
		case err := <-said:
			return err
		case <-ctx.Done():
			ended <- ctx.Err()
			return ctx.Err()
		}
	}
	c := o.invite(t, s, time.Hour)
	hangUp := func() {}
	try := func(ctx context.Context, i int) (waited bool, err error) {
		cfg := joinConfig(i, c.Invitation())
		cfg.Waiting = func() { waited = true; hangUp() }
		_, err = p2p.Join(ctx, cfg)
		return waited, err
	}
	go func() {
		<-asked
		said <- p2p.RefusedDeclined
	}()
	if waited, err := try(t.Context(), 2); !waited || !errors.Is(err, p2p.RefusedDeclined) {
		t.Errorf("declined: waited %v, %v", waited, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	hangUp = cancel
	if waited, err := try(ctx, 2); !waited || err == nil {
		t.Errorf("hung up: waited %v, %v", waited, err)
	}
	<-asked
	if err := <-ended; err == nil {
		t.Error("whoever hangs up is waited for")
	}
	hangUp = func() {}
	own := p2p.Newcomer{Device: newIdentity(2).Device(), HPKE: []byte("public key")}.Fingerprint()
	go func() {
		if shown := <-asked; shown != own {
			t.Errorf("the administrator sees the fingerprint %s, and the newcomer %s", shown, own)
		}
		said <- nil
	}()
	if waited, err := try(t.Context(), 2); !waited || err != nil {
		t.Errorf("confirmed: waited %v, %v", waited, err)
	}
}

func TestNoInviteOpen(t *testing.T) {
	o, s := newOffice(t)
	c := o.invite(t, s, time.Hour)
	clear(o.invites)
	if _, err := join(t, 2, c); err == nil || errors.Is(err, p2p.ErrRefused) {
		t.Errorf("%v: a stranger was let in though no invite is open", err)
	}
	if o.tries() != 0 {
		t.Error("the request was judged")
	}
}

// TestStrangerSpeaksJoinOnly has a stranger, let in by an open invite, try the sync protocol.
func TestStrangerSpeaksJoinOnly(t *testing.T) {
	o, s := newOffice(t)
	o.invite(t, s, time.Hour)
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	id, err := p2p.PeerID(s.id.Device())
	if err != nil {
		t.Fatal(err)
	}
	info := peer.AddrInfo{ID: id}
	for _, a := range s.Addresses() {
		m, err := ma.NewMultiaddr(a)
		if err != nil {
			t.Fatal(err)
		}
		m, _ = peer.SplitAddr(m)
		info.Addrs = append(info.Addrs, m)
	}
	if err := h.Connect(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	say := func(p protocol.ID, b []byte) ([]byte, error) {
		st, err := h.NewStream(t.Context(), id, p)
		if err != nil {
			return nil, err
		}
		defer func() { _ = st.Reset() }()
		if _, err := st.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
			return nil, err
		}
		if err := st.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return nil, err
		}
		return io.ReadAll(st)
	}
	if got, err := say(p2p.SyncProtocol, []byte{6, 0, 0, 0, 0, 0, 0, 0, 1}); err == nil || len(got) > 0 {
		t.Errorf("a stranger heard %d bytes of the sync protocol", len(got))
	}
	// What is refused is refused in the same words: malformed, or wrong.
	c := o.invite(t, s, time.Hour)
	c.Secret[0] ^= 1
	raw, err := h.Peerstore().PubKey(h.ID()).Raw()
	if err != nil || h.Peerstore().PubKey(h.ID()).Type() != crypto.Ed25519 {
		t.Fatal(err)
	}
	want := []byte{0, 0, 0, 2, 2, 1}
	for i, body := range [][]byte{
		[]byte("junk"),
		p2p.EncodeHello(c.Invitation(), s.id.Device(), p2p.Newcomer{Device: trust.DeviceID(raw)}),
	} {
		if got, err := say(p2p.JoinProtocol, body); err != nil || !bytes.Equal(got, want) {
			t.Errorf("request %d: got %x, %v", i, got, err)
		}
	}
}

func TestCode(t *testing.T) {
	c, err := p2p.NewCode(rand.Reader, p2p.Code{
		Role: trust.RoleMember, Inviter: newIdentity(1).Device(), Founding: [16]byte{1, 2, 3},
		Expires: time.Now().Add(time.Hour),
		Addrs: []string{"/ip4/192.168.7.9/udp/4001/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
			"/ip6/fd00::1/tcp/80", "/dns4/example.org/tcp/1", "/ip4/10.0.0.1/tcp/65535", "/ip6/::1/udp/1/quic-v1",
			"/ip4/1.2.3.4/udp/1/quic-v1/webtransport", "/ip4/1.1.1.1/tcp/2", "/ip4/2.2.2.2/tcp/3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/ip4/192.168.7.9/udp/4001/quic-v1", "/ip6/fd00::1/tcp/80", "/ip4/10.0.0.1/tcp/65535",
		"/ip6/::1/udp/1/quic-v1", "/ip4/1.1.1.1/tcp/2", "/ip4/2.2.2.2/tcp/3"}; !slices.Equal(c.Addrs, want) {
		t.Errorf("addresses %v", c.Addrs)
	}
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d characters", len(text))
	got, err := p2p.ParseCode(text)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := got.Text(); again != text || got.Secret != c.Secret || !got.Expires.Equal(c.Expires) ||
		got.Invite() != c.Invite() || got.Key() != c.Key() {
		t.Error("the code does not come back")
	}
	for _, printed := range []string{fmt.Sprintf("%v %+v %#v %s", c, c, c, c.Secret), fmt.Sprint(c.Key())} {
		if strings.Contains(printed, fmt.Sprintf("%x", c.Secret[:4])) || strings.Contains(printed, fmt.Sprint(c.Secret[0], c.Secret[1])) {
			t.Errorf("the secret is printed: %s", printed)
		}
	}
	// Any one wrong letter is noticed.
	for i := range text {
		bad := []byte(text)
		if bad[i] = 'x'; text[i] == 'x' {
			bad[i] = 'y'
		}
		if _, err := p2p.ParseCode(string(bad)); err == nil {
			t.Errorf("letter %d changed, and nobody noticed", i)
		}
	}
}

// TestCodeVector holds the printed form of one code.
func TestCodeVector(t *testing.T) {
	c, err := p2p.NewCode(bytes.NewReader([]byte("0123456789abcdef")), p2p.Code{
		Role: trust.RoleMember, Inviter: trust.DeviceID{1, 2, 3}, Founding: [16]byte{4, 5, 6}, Expires: time.Unix(1795300000, 0),
		Addrs: []string{"/ip4/192.168.7.9/udp/4001/quic-v1", "/ip6/fd00::1/tcp/4001"},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	const want = "cm108130c9j6ct3adhq70wp2rk3chjpc0820c00000000000000000000000000000000000000000000000g2gc" +
		"0000000000000000000000wh4c2080w1a07147t217x0000000000000000000000011ygp9230rr"
	if text != want {
		t.Errorf("the code is now printed as %s", text)
	}
	const invite = "c22e47fbcdddec34773f081c635a2b45"
	if got := fmt.Sprintf("%x", c.Invite()); got != invite {
		t.Errorf("the invite is now %s", got)
	}
}

func FuzzParseCode(f *testing.F) {
	for i, addrs := range [][]string{nil, {"/ip4/127.0.0.1/tcp/1"}, {"/ip6/::1/udp/1/quic-v1", "/ip4/127.0.0.1/udp/9/quic-v1"}} {
		c, err := p2p.NewCode(bytes.NewReader(make([]byte, 16)), p2p.Code{Inviter: newIdentity(i).Device(), Addrs: addrs,
			Expires: time.Unix(1790000000, 0)})
		if err != nil {
			f.Fatal(err)
		}
		text, err := c.Text()
		if err != nil {
			f.Fatal(err)
		}
		if _, err := p2p.ParseCode(text); err != nil {
			f.Fatalf("seed is refused: %v", err)
		}
		f.Add(text, false)
	}
	f.Add(fuzzing.Canary, false)
	f.Add("cm1"+strings.Repeat("0", p2p.MaxCodeText), true)
	f.Fuzz(func(t *testing.T, text string, sum bool) {
		if sum {
			text = p2p.WithChecksum(text) // or nothing that is bent would get past it
		}
		var c p2p.Code
		var err error
		fuzzing.Allocates(t, len(text), 16, 16<<10, func() { c, err = p2p.ParseCode(text) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		again, err := c.Text()
		if err != nil {
			t.Fatalf("write what was read: %v", err)
		}
		if d, err := p2p.ParseCode(again); err != nil || fmt.Sprint(d.Addrs) != fmt.Sprint(c.Addrs) || d.Secret != c.Secret ||
			d.Invite() != c.Invite() || !d.Expires.Equal(c.Expires) || d.Role != c.Role {
			t.Fatalf("%q becomes %q", text, again)
		}
	})
}
