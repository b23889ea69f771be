package anchor

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chartmesh/anchor/kept"
	"chartmesh/chunk"
	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// customer is a practice of one administrator's device.
type customer struct {
	t     testing.TB
	keys  *keyring.Keyring
	code  string // the recovery code
	state *trust.State
	last  map[trust.ScopeID]chunk.Sealed
}

func newCustomer(t testing.TB, name string) *customer {
	t.Helper()
	keys, err := keyring.Create("", nil)
	must(t, err)
	e, code, err := keys.Found(keyring.FoundOptions{Practice: name, Site: "site", Device: "device", Now: time.Now()})
	must(t, err)
	c := &customer{t: t, keys: keys, code: code, last: map[trust.ScopeID]chunk.Sealed{}}
	var rejected []trust.Rejected
	c.state, rejected = trust.Replay([]trust.Entry{e})
	if len(rejected) > 0 {
		t.Fatal(rejected[0].Err)
	}
	must(t, keys.Learn(c.state))
	return c
}

func (c *customer) enter(e trust.Entry, err error) {
	c.t.Helper()
	must(c.t, err)
	c.state, err = c.state.With(e)
	must(c.t, err)
}

// adds makes an anchor the customer's, and returns the token.
func (c *customer) adds(a *Anchor) string {
	c.t.Helper()
	c.enter(c.keys.AddAnchor(c.state, a.Device(), []string{"/ip4/127.0.0.1/tcp/1"}, "anchor", time.Now()))
	return p2p.AnchorToken{Anchor: a.Device(), Practice: c.state.Practice(), Device: c.keys.Device()}.String()
}

// admitted is the customer's practice at an anchor that has its membership log.
func (c *customer) admitted(a *Anchor) *practice {
	c.t.Helper()
	_, err := a.Admit(c.t.Context(), c.adds(a))
	must(c.t, err)
	p := a.mu.practices[c.state.Practice()]
	c.brings(p)
	return p
}

// brings gives a practice the membership log.
func (c *customer) brings(p session.Replica) {
	c.t.Helper()
	must(c.t, p.AddEntries(c.t.Context(), c.keys.Device(), entries(c.state)))
}

func entries(st *trust.State) (list [][]byte) {
	for _, e := range st.Entries() {
		list = append(list, e.Bytes())
	}
	return list
}

func (c *customer) scope() trust.ScopeID { return c.state.Scopes()[0].ID }

// seals writes the next chunk of its log.
func (c *customer) seals(text string) chunk.Sealed {
	c.t.Helper()
	scope := c.scope()
	params := chunk.Params{Membership: c.state, Scope: scope, Log: chunk.CurrentLog(c.keys), Counter: 1, Dictionary: chunk.Dictionary1}
	if last, ok := c.last[scope]; ok {
		params.Counter, params.Previous = last.Header().Counter+1, last.ID()
	}
	s, err := chunk.Seal(c.keys, params, &chunk.Changes{Document: [32]byte{1}, Schema: 1, Author: text, Origin: chunk.OriginEdit,
		Changes: []chunk.Change{{Raw: []byte(text)}}, Authorship: []chunk.Authorship{{Seq: params.Counter, Newest: [32]byte{1}}}})
	must(c.t, err)
	c.last[scope] = s
	return s
}

func openAnchor(t testing.TB, dir string) *Anchor {
	t.Helper()
	a, err := Open(t.Context(), Config{Dir: dir, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, LeastFree: 1})
	must(t, err)
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func chunksOf(p *practice, scope trust.ScopeID) (n uint64) {
	for _, at := range p.Vector(scope) {
		n += at.Counter
	}
	return n
}

// TestKept: what was taken is there after a restart, and what does not belong was never taken.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	a := openAnchor(t, dir)
	berg, tal := newCustomer(t, "Berg"), newCustomer(t, "Tal")
	p := berg.admitted(a)
	q := tal.admitted(a)
	one, two, three := berg.seals("one"), berg.seals("two"), berg.seals("three")
	other := tal.seals("other")
	forged := slices.Clone(three.Bytes())
	forged[len(forged)-1] ^= 1
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{one.Bytes(), three.Bytes(), two.Bytes(), forged, other.Bytes()}))
	if n := chunksOf(p, berg.scope()); n != 2 {
		t.Errorf("%d chunks are held, of one, two, what comes before its turn and what is forged", n)
	}
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{three.Bytes()}))
	must(t, q.Arrive(t.Context(), tal.keys.Device(), [][]byte{other.Bytes()}))
	if n := chunksOf(p, tal.scope()) + chunksOf(q, berg.scope()); n != 0 {
		t.Errorf("%d chunks of another practice are held", n)
	}
	must(t, a.Close())

	b := openAnchor(t, dir)
	if b.Device() != a.Device() {
		t.Fatal("the anchor has another identity")
	}
	p, q = b.mu.practices[p.id], b.mu.practices[q.id]
	if n, m := chunksOf(p, berg.scope()), chunksOf(q, tal.scope()); n != 3 || m != 1 {
		t.Errorf("%d and %d chunks are held after a restart", n, m)
	}
	items, err := p.Chunks(berg.scope(), one.Log(), 0, 1<<20)
	must(t, err)
	if len(items) != 3 || !slices.Equal(items[1].Bytes, two.Bytes()) {
		t.Errorf("%d items come back", len(items))
	}
	// An edit of a practice is not opened by what the anchor has, and no word of it stands in clear anywhere: see the script.
	if s, err := b.Status(); err != nil || len(s.Practices) != 2 || s.Practices[0].Chunks != 3 || !s.Practices[1].Anchor {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestApart: who is not of a practice gets nothing of it, whatever it says.
func TestApart(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	berg, tal := newCustomer(t, "Berg"), newCustomer(t, "Tal")
	p := berg.admitted(a)
	tal.admitted(a)
	stranger, err := keyring.Create("", nil)
	must(t, err)
	if a.admits(stranger.Device()) || a.replicaOf(stranger.Device()) != nil {
		t.Error("a stranger is let in")
	}
	for who, d := range map[string]trust.DeviceID{"a stranger": stranger.Device(), "a device of another practice": tal.keys.Device()} {
		if l := p.Hello(d); len(l.Scopes) != 0 {
			t.Errorf("%s is told of %d scopes", who, len(l.Scopes))
		}
	}
	if a.replicaOf(tal.keys.Device()) == session.Replica(p) {
		t.Error("a device of another practice is taken for one of this")
	}
	if l := p.Hello(berg.keys.Device()); len(l.Scopes) != len(berg.state.Scopes()) {
		t.Errorf("its own device is told of %d scopes", len(l.Scopes))
	}
	// Its membership log cannot be replaced, before it came or after.
	must(t, p.AddEntries(t.Context(), tal.keys.Device(), entries(tal.state)))
	third := newCustomer(t, "Third")
	_, err = a.Admit(t.Context(), third.adds(a))
	must(t, err)
	r := a.mu.practices[third.state.Practice()]
	if err := r.AddEntries(t.Context(), third.keys.Device(), entries(tal.state)); !errors.Is(err, kept.ErrForeign) || r.State() != nil {
		t.Errorf("another practice's log is taken: %v", err)
	}
	if !r.admits(third.keys.Device()) || r.admits(berg.keys.Device()) {
		t.Error("who brings the log is not who the token names")
	}
	third.brings(r)

	// A device that was removed, and everybody once the anchor was.
	newcomer, err := keyring.Create("", nil)
	must(t, err)
	berg.enter(berg.keys.Admit(berg.state, keyring.Newcomer{Device: newcomer.Device(), HPKE: newcomer.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
	berg.brings(p)
	if !a.admits(newcomer.Device()) {
		t.Error("a newcomer is not let in")
	}
	berg.enter(berg.keys.Remove(berg.state, newcomer.Device(), nil, time.Now()))
	berg.brings(p)
	if a.admits(newcomer.Device()) || len(p.Hello(newcomer.Device()).Scopes) != 0 {
		t.Error("a removed device is let in")
	}
	berg.enter(berg.keys.Remove(berg.state, a.Device(), nil, time.Now()))
	berg.brings(p)
	if l := p.Hello(berg.keys.Device()); len(l.Scopes) != 0 {
		t.Error("an anchor that was removed tells of scopes")
	}
}

// TestLaterEntriesFirst: entries whose founding entry has not come are left out, and the session goes on.
func TestLaterEntriesFirst(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	berg := newCustomer(t, "Berg")
	_, err := a.Admit(t.Context(), berg.adds(a))
	must(t, err)
	p := a.mu.practices[berg.state.Practice()]
	all := entries(berg.state)
	must(t, p.AddEntries(t.Context(), berg.keys.Device(), all[1:]))
	if p.State() != nil {
		t.Error("a membership log is taken without its beginning")
	}
	must(t, p.AddEntries(t.Context(), berg.keys.Device(), all))
	if !p.IsAnchor() {
		t.Error("the whole log is not taken afterwards")
	}
}

// TestNamedByAnother: any practice can name any device its own. The device finds its own practice all the same.
func TestNamedByAnother(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	thief, berg := newCustomer(t, "Thief"), newCustomer(t, "Berg")
	thief.enter(thief.keys.Admit(thief.state, keyring.Newcomer{Device: berg.keys.Device(), HPKE: berg.keys.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
	thief.admitted(a)
	_, err := a.Admit(t.Context(), berg.adds(a))
	must(t, err)
	p := a.mu.practices[berg.state.Practice()]
	var tried []session.Replica
	for range 2 {
		tried = append(tried, a.replicaOf(berg.keys.Device()))
	}
	if !slices.Contains(tried, session.Replica(p)) {
		t.Fatal("its own practice is never tried")
	}
	berg.brings(p) // it speaks
	if got := a.replicaOf(berg.keys.Device()); got != session.Replica(p) {
		t.Error("after it has spoken it is taken for the other's")
	}
	if !a.admits(thief.keys.Device()) || a.replicaOf(thief.keys.Device()) == session.Replica(p) {
		t.Error("the other gets into the practice")
	}
}

// TestAdmission says no in words that its command knows.
func TestAdmission(t *testing.T) {
	a, other := openAnchor(t, t.TempDir()), openAnchor(t, t.TempDir())
	berg := newCustomer(t, "Berg")
	token := berg.adds(a)
	for text, want := range map[string]error{"cma1-": p2p.ErrToken, token + "a": p2p.ErrToken, newCustomer(t, "Tal").adds(other): ErrOtherAnchor} {
		if _, err := a.Admit(t.Context(), text); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	_, err := a.Admit(t.Context(), token)
	must(t, err)
	if _, err := a.Admit(t.Context(), token); !errors.Is(err, ErrAdmitted) {
		t.Errorf("admitted twice: %v", err)
	}
}

// TestRecoveryKey: whoever has the recovery code is known by the key that follows from it, and by no other.
func TestRecoveryKey(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	berg := newCustomer(t, "Berg")
	p := berg.admitted(a)
	old, _ := berg.state.Root()
	if a.rootKey(old) != p2p.RootInForce || a.recovered(old) != session.Replica(p) || a.rootKey(berg.keys.Device()) != p2p.RootNone {
		t.Error("the key of the recovery code is not known")
	}
	e, _, err := berg.keys.ReplaceRecovery(berg.state, "", time.Now())
	berg.enter(e, err)
	berg.brings(p)
	if root, _ := berg.state.Root(); a.rootKey(root) != p2p.RootInForce || a.rootKey(old) != p2p.RootReplaced {
		t.Error("the recovery code that was replaced is in force")
	}
}

// TestDamage: a chunk that the disk lost is asked for again.
func TestDamage(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	berg := newCustomer(t, "Berg")
	p := berg.admitted(a)
	one, two := berg.seals("one"), berg.seals("two")
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{one.Bytes(), two.Bytes()}))
	var b storage.Batch
	b.Delete(storage.Chunk.Key(berg.scope(), one.Log(), 1)) // as a disk loses it
	must(t, p.share.Commit(t.Context(), &b))
	if _, err := p.Chunks(berg.scope(), one.Log(), 0, 1<<20); err == nil {
		t.Fatal("a chunk that is lost is passed over")
	}
	if n := chunksOf(p, berg.scope()); n != 0 {
		t.Fatalf("%d chunks are claimed", n)
	}
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{one.Bytes()}))
	if n := chunksOf(p, berg.scope()); n != 2 {
		t.Errorf("%d chunks are held after it came again: what lay behind it counts too", n)
	}
}

// TestRemovedWithAllFiles: a removed device opens nothing that was written after its removal, also with everything that an anchor has; what was
// written before it opens, as it always could.
func TestRemovedWithAllFiles(t *testing.T) {
	dir := t.TempDir()
	a := openAnchor(t, dir)
	berg := newCustomer(t, "Berg")
	p := berg.admitted(a)
	employee, err := keyring.Create("", nil)
	must(t, err)
	berg.enter(berg.keys.Admit(berg.state, keyring.Newcomer{Device: employee.Device(), HPKE: employee.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
	before := berg.seals("before")
	berg.enter(berg.keys.Remove(berg.state, employee.Device(), nil, time.Now()))
	for _, scope := range berg.keys.RotationsDue(berg.state) {
		berg.enter(berg.keys.Rotate(berg.state, scope, time.Now()))
	}
	must(t, berg.keys.Learn(berg.state))
	after := berg.seals("after")
	berg.brings(p)
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{before.Bytes(), after.Bytes()}))
	must(t, a.Close())

	// All files: the identity, thus the key of the store, thus every entry and chunk.
	stolen, err := openIdentity(dir)
	must(t, err)
	store, err := storage.Open(filepath.Join(dir, "store"), stolen.Derive("store 1"), storage.Options{})
	must(t, err)
	defer func() { _ = store.Close() }()
	var entries []trust.Entry
	opened := map[chunk.ID]bool{}
	must(t, storage.Part(store, p.Number).View(func(v storage.Reader) error {
		if err := v.Scan(storage.Member.All(), nil, func(_, value []byte) error {
			e, err := trust.ParseEntry(slices.Clone(value))
			entries = append(entries, e)
			return err
		}); err != nil {
			return err
		}
		st, rejected := trust.Replay(entries)
		if len(rejected) > 0 {
			return rejected[0].Err
		}
		_ = employee.Learn(st) // it takes all boxes that open
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(slices.Clone(value))
			if err != nil {
				return err
			}
			_, err = chunk.Open(employee, sealed)
			opened[sealed.ID()] = err == nil
			if _, owner := chunk.Open(berg.keys, sealed); owner != nil {
				t.Errorf("a chunk does not open for its author: %v", owner)
			}
			return nil
		})
	}))
	if len(opened) != 2 || !opened[before.ID()] || opened[after.ID()] {
		t.Errorf("opened %v of before %v and after %v", opened, before.ID(), after.ID())
	}
}

// TestLogInFrames: a membership log comes in many frames, and who brings it is let in until all of it is here, wherever it is cut.
func TestLogInFrames(t *testing.T) {
	berg := newCustomer(t, "Berg")
	var late *keyring.Keyring
	for range 3 {
		var err error
		late, err = keyring.Create("", nil)
		must(t, err)
		berg.enter(berg.keys.Admit(berg.state, keyring.Newcomer{Device: late.Device(), HPKE: late.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
	}
	dir := t.TempDir()
	a := openAnchor(t, dir)
	for _, first := range []bool{false, true} { // the anchor's entry is the last one, or comes before that of who brings the log
		if first {
			must(t, a.Close())
			a = openAnchor(t, t.TempDir())
			berg = newCustomer(t, "Berg")
			berg.adds(a)
			var err error
			late, err = keyring.Create("", nil)
			must(t, err)
			berg.enter(berg.keys.Admit(berg.state, keyring.Newcomer{Device: late.Device(), HPKE: late.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
		} else {
			berg.adds(a)
		}
		token := p2p.AnchorToken{Anchor: a.Device(), Practice: berg.state.Practice(), Device: late.Device()}
		_, err := a.Admit(t.Context(), token.String())
		must(t, err)
		p := a.mu.practices[berg.state.Practice()]
		for i, b := range entries(berg.state) {
			if !a.admits(late.Device()) || a.replicaOf(late.Device()) != session.Replica(p) {
				t.Fatalf("anchor first %v: who brings the log is not let in after %d entries", first, i)
			}
			must(t, p.AddEntries(t.Context(), late.Device(), [][]byte{b}))
		}
		if !a.admits(late.Device()) || !a.admits(berg.keys.Device()) {
			t.Errorf("anchor first %v: its devices are not let in when the log is here", first)
		}
		berg.enter(berg.keys.Remove(berg.state, late.Device(), nil, time.Now()))
		berg.brings(p)
		if a.admits(late.Device()) {
			t.Errorf("anchor first %v: who brought the log is let in after it was removed", first)
		}
	}
}

// TestRemovedNamedByAnother: who was removed from a practice is told nothing more of it, although another practice names it.
func TestRemovedNamedByAnother(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	berg, other := newCustomer(t, "Berg"), newCustomer(t, "Other")
	employee, err := keyring.Create("", nil)
	must(t, err)
	for _, c := range []*customer{berg, other} {
		c.enter(c.keys.Admit(c.state, keyring.Newcomer{Device: employee.Device(), HPKE: employee.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
	}
	p := berg.admitted(a)
	other.admitted(a)
	berg.enter(berg.keys.Remove(berg.state, employee.Device(), nil, time.Now()))
	devices := map[trust.DeviceID]bool{berg.keys.Device(): true}
	if !a.put(p, devices, nil, nil) {
		t.Error("the sessions of the practice are not begun anew when a device is not of it any more")
	}
	berg.brings(p)
	if !a.admits(employee.Device()) {
		t.Error("the other's device is not let in")
	}
	for range 3 {
		if a.replicaOf(employee.Device()) == session.Replica(p) {
			t.Error("it is taken for one of the practice that removed it")
		}
	}
}

// TestForeignRoot: a practice that names another's device or recovery key as its own root key keeps nobody away.
func TestForeignRoot(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	thief, berg := newCustomer(t, "Thief"), newCustomer(t, "Berg")
	root, _ := berg.state.Root()
	for _, key := range []trust.DeviceID{berg.keys.Device(), root} {
		replaced, recovery := thief.state.Root()
		m := trust.Recovery{Replaced: replaced, Root: key, Key: recovery}
		d := trust.Draft{Kind: trust.KindRecovery, Parents: thief.state.Heads(), TimeMillis: time.Now().UnixMilli(), Payload: m.Encode()}
		thief.enter(d.Sign(thief.keys))
	}
	thief.admitted(a)
	p := berg.admitted(a)
	if a.replicaOf(berg.keys.Device()) != session.Replica(p) {
		t.Error("a device is taken for the thief's")
	}
	if a.recovered(root) != session.Replica(p) || a.rootKey(root) != p2p.RootInForce {
		t.Error("the recovery key is taken for the thief's")
	}
}

// TestOneIsDamaged: a practice that does not read any more stops none of the others, and can be let go and admitted again.
func TestOneIsDamaged(t *testing.T) {
	dir := t.TempDir()
	a := openAnchor(t, dir)
	berg, tal := newCustomer(t, "Berg"), newCustomer(t, "Tal")
	p, q := berg.admitted(a), tal.admitted(a)
	var b storage.Batch
	b.Put(storage.Member.Key([32]byte{1}), []byte("no entry"))
	must(t, p.share.Commit(t.Context(), &b))
	must(t, a.Close())
	a = openAnchor(t, dir)
	if a.admits(berg.keys.Device()) || !a.admits(tal.keys.Device()) || a.replicaOf(tal.keys.Device()) != session.Replica(a.mu.practices[q.id]) {
		t.Error("the damaged practice is held, or the other is not")
	}
	s, err := a.Status()
	must(t, err)
	if len(s.Practices) != 2 || s.Practices[0].Damaged == "" || s.Practices[1].Damaged != "" {
		t.Errorf("status: %+v", s.Practices)
	}
	must(t, a.Drop(t.Context(), berg.state.Practice(), false))
	_, err = a.Admit(t.Context(), p2p.AnchorToken{Anchor: a.Device(), Practice: berg.state.Practice(), Device: berg.keys.Device()}.String())
	must(t, err)
	again := a.find(berg.state.Practice())
	if berg.brings(again); !a.admits(berg.keys.Device()) || again.Number == p.Number {
		t.Errorf("it is not held although it was admitted again, under number %d", again.Number)
	}
}
