package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
)

// tb is what tests and random histories have in common.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// signer is a key made from a name, so that failing tests speak of names.
type signer struct{ key ed25519.PrivateKey }

func newSigner(name string) signer {
	seed := sha256.Sum256([]byte(name))
	return signer{ed25519.NewKeyFromSeed(seed[:])}
}

func (s signer) Device() trust.DeviceID { return trust.DeviceID(s.key.Public().(ed25519.PublicKey)) }

func (s signer) Sign(context string, msg []byte) []byte {
	return ed25519.Sign(s.key, trust.SigningInput(context, msg))
}

// fill makes bytes that stand for keys and boxes, which this package never opens.
func fill(name string, n int) []byte {
	sum := sha256.Sum256([]byte(name))
	return bytes.Repeat(sum[:], n/32+1)[:n]
}

func found(t tb, root, first signer) trust.Entry {
	t.Helper()
	f := trust.Founding{
		Nonce: [32]byte{1}, Root: root.Device(), Recovery: fill("recovery", trust.HPKEPublicSize),
		Practice: []byte("sealed practice"),
		Device: trust.Device{ID: first.Device(), HPKE: fill("first", trust.HPKEPublicSize), Role: trust.RoleAdmin,
			Names: []byte("sealed names")},
	}
	for _, name := range []string{trust.ScopeBilling, trust.ScopeClinical} {
		f.Scopes = append(f.Scopes, trust.NewScope{Name: name, Commitment: [32]byte(fill(name, 32)), Boxes: []trust.ScopeBox{
			{Sealed: fill("box", trust.KeyBoxSize)}, {Recipient: first.Device(), Sealed: fill("box", trust.KeyBoxSize)},
		}})
	}
	e, err := trust.Draft{Kind: trust.KindFound, TimeMillis: 1, Payload: f.Encode()}.Sign(first, root)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func addition(st *trust.State, device signer, role trust.Role) trust.Addition {
	a := trust.Addition{Device: trust.Device{ID: device.Device(), HPKE: fill("hpke", trust.HPKEPublicSize), Role: role,
		Names: []byte("sealed")}}
	for _, sc := range st.Scopes() { // ascending by ID
		a.Boxes = append(a.Boxes, trust.EpochBox{Scope: sc.ID, Epoch: st.CurrentEpoch(sc.ID),
			Sealed: fill("box", trust.KeyBoxSize)})
	}
	return a
}

func add(t testing.TB, st *trust.State, by, device signer, role trust.Role) trust.Entry {
	t.Helper()
	return draft(t, st, trust.KindAdd, addition(st, device, role).Encode(), by)
}

func draft(t testing.TB, st *trust.State, kind trust.Kind, payload []byte, by signer) trust.Entry {
	t.Helper()
	e, err := trust.Draft{Kind: kind, Parents: st.Heads(), TimeMillis: 2, Payload: payload}.Sign(by)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func with(t testing.TB, st *trust.State, entries ...trust.Entry) *trust.State {
	t.Helper()
	for _, e := range entries {
		next, err := st.With(e)
		if err != nil {
			t.Fatalf("with %v: %v", e, err)
		}
		st = next
	}
	return st
}

var root, ada, ben, cem, dan, eva = newSigner("root"), newSigner("ada"), newSigner("ben"), newSigner("cem"),
	newSigner("dan"), newSigner("eva")

func begin(t tb) *trust.State {
	t.Helper()
	st, err := trust.Found(found(t, root, ada))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestFoundAndAdd(t *testing.T) {
	st := begin(t)
	scope, ok := st.ScopeNamed(trust.ScopeClinical)
	if !ok || !st.MayWrite(ada.Device(), scope) || st.MayWrite(ben.Device(), scope) {
		t.Error("the first device alone may write at first")
	}
	before := st.HeadsHash()
	st2 := with(t, st, add(t, st, ada, ben, trust.RoleMember))
	if !st2.MayWrite(ben.Device(), scope) || !st2.MayRead(ben.Device(), scope) {
		t.Error("an added member may not write or read")
	}
	if _, ok := st.Member(ben.Device()); ok || st.HeadsHash() != before || st.Len() != 1 {
		t.Error("With changed the State that it was called on")
	}
	if st2.MayWrite(ben.Device(), trust.ScopeID{9}) {
		t.Error("may write in a scope that is not there")
	}
	st3 := with(t, st2, add(t, st2, ada, cem, trust.RoleReader))
	if st3.MayWrite(cem.Device(), scope) || !st3.MayRead(cem.Device(), scope) {
		t.Error("a reader may read and not write")
	}
	if got := len(st3.Boxes(ben.Device())); got != 2 {
		t.Errorf("%d boxes for the member, want 2", got)
	}
	if got := len(st3.Boxes(trust.DeviceID{})); got != 2 {
		t.Errorf("%d boxes for the recovery key, want 2", got)
	}
	if got := len(st3.Boxes(ada.Device())); got != 2 {
		t.Errorf("%d boxes for the first device, want 2", got)
	}
	members := st3.Members()
	if len(members) != 3 || !slices.IsSortedFunc(members, func(a, b trust.Member) int {
		return bytes.Compare(a.Device[:], b.Device[:])
	}) {
		t.Error("members are not three in order")
	}
}

func TestRefusals(t *testing.T) {
	st := begin(t)
	st = with(t, st, add(t, st, ada, ben, trust.RoleMember))
	otherRoot := found(t, newSigner("other root"), ada)

	forged := bytes.Clone(add(t, st, ada, cem, trust.RoleMember).Bytes())
	forged[len(forged)-1] ^= 1
	forgedEntry, err := trust.ParseEntry(forged)
	if err != nil {
		t.Fatal(err)
	}
	noBoxes := addition(st, cem, trust.RoleMember)
	noBoxes.Boxes = nil
	twice := addition(st, cem, trust.RoleMember)
	twice.Boxes = append(twice.Boxes[:1], twice.Boxes[0])
	twice.Boxes[1].Epoch = trust.EpochID(bytes.Repeat([]byte{0xff}, 32))
	otherEpoch := addition(st, cem, trust.RoleMember)
	otherEpoch.Boxes[0].Epoch[0] ^= 1
	unheard, err := trust.Draft{Kind: trust.KindAdd, Parents: []trust.EntryID{{7}},
		Payload: addition(st, cem, trust.RoleMember).Encode()}.Sign(ada)
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		name  string
		entry trust.Entry
		want  error
	}{
		{"signed by a member", add(t, st, ben, cem, trust.RoleMember), trust.ErrNotAdmin},
		{"signed by a stranger", add(t, st, dan, cem, trust.RoleMember), trust.ErrNotAdmin},
		{"a stranger adds itself", add(t, st, dan, dan, trust.RoleAdmin), trust.ErrNotAdmin},
		{"forged signature", forgedEntry, trust.ErrBadSignature},
		{"a member twice", add(t, st, ada, ben, trust.RoleAdmin), trust.ErrMemberAlready},
		{"the root key as a device", add(t, st, ada, root, trust.RoleAdmin), trust.ErrMemberAlready},
		{"another founding", otherRoot, trust.ErrOtherPractice},
		{"no key boxes", draft(t, st, trust.KindAdd, noBoxes.Encode(), ada), trust.ErrBoxes},
		{"a box too many", draft(t, st, trust.KindAdd, twice.Encode(), ada), trust.ErrBoxes},
		{"unknown epoch", draft(t, st, trust.KindAdd, otherEpoch.Encode(), ada), trust.ErrBoxes},
		{"an unknown kind by a member", draft(t, st, 99, []byte("x"), ben), trust.ErrNotAdmin},
	} {
		var refusal *trust.Refusal
		if _, err := st.With(test.entry); !errors.Is(err, test.want) || !errors.As(err, &refusal) {
			t.Errorf("%s: %v, want a refusal: %v", test.name, err, test.want)
		}
	}
	var missing *trust.MissingParent
	if _, err := st.With(unheard); !errors.As(err, &missing) || missing.ID != (trust.EntryID{7}) {
		t.Errorf("unknown parent: %v", err)
	}
	if _, err := st.With(st.Entries()[1]); !errors.Is(err, trust.ErrKnown) {
		t.Errorf("known entry: %v", err)
	}
	if _, err := trust.Found(st.Entries()[1]); !errors.Is(err, trust.ErrNoFounding) {
		t.Errorf("found with an add entry: %v", err)
	}
}

// An administrator's right is judged at the entry's ancestors: what it signs apart from its own admission does not hold.
func TestRightComesFromAncestors(t *testing.T) {
	st := begin(t)
	early := add(t, st, ben, cem, trust.RoleMember) // its parent is the founding entry alone
	later := with(t, st, add(t, st, ada, ben, trust.RoleAdmin))
	if _, err := later.With(early); !errors.Is(err, trust.ErrNotAdmin) {
		t.Errorf("entry apart from its author's admission: %v", err)
	}
	with(t, later, add(t, later, ben, cem, trust.RoleMember))
}

// TestWasAdministrator: who was made one was one, whatever came of it later; not who never was, nor by an entry that does not stand.
func TestWasAdministrator(t *testing.T) {
	st := begin(t)
	st = with(t, st, add(t, st, ada, ben, trust.RoleAdmin))
	st = with(t, st, add(t, st, ben, cem, trust.RoleMember))
	onBen := st
	st = with(t, st, draft(t, st, trust.KindRole, trust.Promotion{Device: ben.Device(), Role: trust.RoleMember}.Encode(), ada))
	st = with(t, st, draft(t, st, trust.KindRemove, trust.Removal{Device: ben.Device()}.Encode(), ada))
	for who, want := range map[trust.DeviceID]bool{ada.Device(): true, ben.Device(): true, cem.Device(): false, dan.Device(): false} {
		if st.WasAdministrator(who) != want {
			t.Errorf("%v: %v", who, !want)
		}
	}
	// What ben says apart from his removal does not stand.
	if apart := with(t, st, add(t, onBen, ben, dan, trust.RoleAdmin)); apart.WasAdministrator(dan.Device()) {
		t.Error("an entry that does not stand made an administrator")
	}
}

func TestAddedTwiceApart(t *testing.T) {
	st := begin(t)
	st = with(t, st, add(t, st, ada, ben, trust.RoleAdmin))
	x, y := add(t, st, ada, cem, trust.RoleAdmin), add(t, st, ben, cem, trust.RoleMember)
	// What cem signs knowing only x holds, whatever comes of it later.
	onX := with(t, st, x)
	byCem := add(t, onX, cem, dan, trust.RoleMember)
	for _, order := range [][]trust.Entry{{x, y, byCem}, {y, x, byCem}, {x, byCem, y}} {
		got := with(t, st, order...)
		if m, _ := got.Member(cem.Device()); m.Role != trust.RoleMember || m.Entry != y.ID() {
			t.Errorf("role %v, want the lesser right", m.Role)
		}
		if _, ok := got.Member(dan.Device()); !ok {
			t.Error("what followed from one addition is gone")
		}
		if len(got.Boxes(cem.Device())) != 4 {
			t.Error("boxes of one addition are gone")
		}
		if _, err := got.With(add(t, got, cem, eva, trust.RoleMember)); !errors.Is(err, trust.ErrNotAdmin) {
			t.Errorf("entry after both additions: %v", err)
		}
	}
}

func TestUnknownKindsAreKept(t *testing.T) {
	st := begin(t)
	st = with(t, st, add(t, st, ada, ben, trust.RoleMember))
	if len(st.Unknown()) != 0 {
		t.Error("unknown entries from the start")
	}
	promote := draft(t, st, 201, []byte("ben becomes an administrator in a way that is not known yet"), ada)
	byRoot := draft(t, st, 200, nil, root)
	onPromote := with(t, st, promote)
	byBen := add(t, onPromote, ben, cem, trust.RoleMember) // only the promotion could allow it
	onBen := with(t, onPromote, byBen)
	byCem := draft(t, onBen, 202, []byte("?"), cem)
	byAda := add(t, onBen, ada, dan, trust.RoleMember) // allowed anyway

	all := append(st.Entries(), promote, byRoot, byBen, byCem, byAda)
	got, rejected := trust.Replay(all)
	if len(rejected) != 0 {
		t.Fatalf("rejected: %v", rejected[0].Err)
	}
	if got.Len() != len(all) || len(got.Unknown()) != 4 {
		t.Errorf("%d of %d entries, %d unknown, want 4", got.Len(), len(all), len(got.Unknown()))
	}
	if _, ok := got.Member(cem.Device()); ok {
		t.Error("an undecided addition has an effect")
	}
	if _, ok := got.Member(dan.Device()); !ok {
		t.Error("a plain addition after an unknown entry has none")
	}
	broken := bytes.Clone(byCem.Bytes())
	broken[len(broken)-1] ^= 1
	if e, err := trust.ParseEntry(broken); err != nil {
		t.Error(err)
	} else if _, err := onBen.With(e); !errors.Is(err, trust.ErrBadSignature) {
		t.Errorf("undecided entry with a bad signature: %v", err)
	}
}

func TestSince(t *testing.T) {
	st := begin(t)
	a := with(t, st, add(t, st, ada, ben, trust.RoleMember))
	b := with(t, a, add(t, a, ada, cem, trust.RoleMember))
	ids := func(entries []trust.Entry) (out []trust.EntryID) {
		for _, e := range entries {
			out = append(out, e.ID())
		}
		return out
	}
	if got := b.Since(a.Heads()); len(got) != 1 || got[0].ID() != b.Heads()[0] {
		t.Errorf("since the last but one: %v", ids(got))
	}
	if got := b.Since(b.Heads()); len(got) != 0 {
		t.Errorf("since the end: %v", ids(got))
	}
	if got := b.Since([]trust.EntryID{{1, 2, 3}}); len(got) != 3 {
		t.Errorf("since unknown heads: %v", ids(got))
	}
	if !slices.Equal(ids(b.Since(nil)), ids(b.Entries())) {
		t.Error("since nothing is not everything")
	}
}

// history makes a log of several administrators who work apart, with entries that do not hold among it.
func history(t testing.TB, rng *rand.Rand, n int) []trust.Entry {
	t.Helper()
	first := begin(t)
	all := first.Entries()
	states := []*trust.State{first} // what each of some devices knows
	admins := []signer{ada}
	for i := range n {
		st := states[rng.IntN(len(states))]
		by := admins[rng.IntN(len(admins))]
		device := newSigner(fmt.Sprintf("device %d", rng.IntN(n)))
		var e trust.Entry
		switch rng.IntN(10) {
		case 0:
			e = draft(t, st, trust.Kind(100+rng.IntN(20)), fill("unknown", i), by)
		case 1:
			e = add(t, st, newSigner("stranger"), device, trust.RoleAdmin)
		case 2, 3, 4:
			e = add(t, st, by, device, trust.RoleAdmin)
		default:
			e = add(t, st, by, device, trust.RoleMember)
		}
		all = append(all, e)
		next, err := st.With(e)
		if err != nil {
			continue
		}
		if a, ok := e.Addition(); ok && a.Device.Role == trust.RoleAdmin {
			admins = append(admins, device)
		}
		switch rng.IntN(3) {
		case 0:
			states = append(states, next)
		case 1:
			states[rng.IntN(len(states))] = next
		default: // two who worked apart meet
			other := states[rng.IntN(len(states))]
			for _, e := range other.Since(next.Heads()) {
				if merged, err := next.With(e); err == nil {
					next = merged
				}
			}
			states = append(states, next)
		}
	}
	return all
}

func describe(st *trust.State, rejected []trust.Rejected) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%x %v\n", st.HeadsHash(), st.Heads())
	for _, e := range st.Entries() {
		fmt.Fprintln(&b, e)
	}
	for _, m := range st.Members() {
		fmt.Fprintln(&b, m.Device, m.Role, m.Entry, len(st.Boxes(m.Device)))
	}
	for _, e := range st.Unknown() {
		fmt.Fprintln(&b, "unknown", e)
	}
	for _, r := range rejected {
		fmt.Fprintln(&b, "rejected", r.Entry, r.Err)
	}
	return b.String()
}

func TestOrderOfArrivalDoesNotMatter(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for run := range 8 {
		rng := rand.New(rand.NewPCG(seed, uint64(run)))
		all := history(t, rng, 40)
		st, rejected := trust.Replay(all)
		want := describe(st, rejected)
		for range 4 {
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			again, rejected := trust.Replay(append(all, all[0]))
			if got := describe(again, rejected); got != want {
				t.Fatalf("seed %d run %d: replay in another order differs:\n%s\nwant\n%s", seed, run, got, want)
			}
		}
		// One entry at a time, whoever misses a parent waits.
		one, err := trust.Found(st.Entries()[0])
		if err != nil {
			t.Fatal(err)
		}
		waiting := slices.Clone(all)
		for progress := true; progress; {
			progress = false
			var still []trust.Entry
			for _, e := range waiting {
				var missing *trust.MissingParent
				next, err := one.With(e)
				if err == nil {
					one, progress = next, true
				} else if errors.As(err, &missing) {
					still = append(still, e)
				}
			}
			waiting = still
		}
		if got, want := describe(one, nil), describe(st, nil); got != want {
			t.Fatalf("seed %d run %d: one at a time differs:\n%s\nwant\n%s", seed, run, got, want)
		}
		// Parents come before children.
		seen := map[trust.EntryID]bool{}
		for _, e := range st.Entries() {
			for _, p := range e.Parents() {
				if !seen[p] {
					t.Fatalf("seed %d run %d: %v before its parent", seed, run, e)
				}
			}
			seen[e.ID()] = true
		}
	}
}

func TestReplayNeedsOneFounding(t *testing.T) {
	st := begin(t)
	if got, rejected := trust.Replay(nil); got != nil || len(rejected) != 0 {
		t.Error("a State from nothing")
	}
	other := found(t, newSigner("other root"), ben)
	got, rejected := trust.Replay(append(st.Entries(), other))
	if got != nil || len(rejected) != 2 || !errors.Is(rejected[0].Err, trust.ErrNoFounding) {
		t.Error("a State from two foundings")
	}
}

func TestEveryByteCounts(t *testing.T) {
	st := begin(t)
	e := add(t, st, ada, ben, trust.RoleMember)
	for _, valid := range [][]byte{st.Entries()[0].Bytes(), e.Bytes()} {
		for i := range valid {
			b := bytes.Clone(valid)
			b[i] ^= 1 << (i % 8)
			changed, err := trust.ParseEntry(b)
			if err != nil {
				continue
			}
			if changed.Kind() == trust.KindFound {
				if got, err := trust.Found(changed); err == nil && got.Practice() == st.Practice() {
					t.Fatalf("byte %d of a founding entry changed and nobody noticed", i)
				} else if err == nil {
					t.Fatalf("byte %d of a founding entry changed and its signatures verify", i)
				}
			} else if _, err := st.With(changed); err == nil {
				t.Fatalf("byte %d changed and the entry holds", i)
			}
		}
		for i := range valid {
			if _, err := trust.ParseEntry(valid[:i]); err == nil {
				t.Fatalf("the first %d bytes parse", i)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	st := begin(t)
	valid := add(t, st, ada, ben, trust.RoleMember).Bytes()
	newer := bytes.Clone(valid)
	newer[3] = 2
	if _, err := trust.ParseEntry(newer); !errors.Is(err, trust.ErrNewer) {
		t.Errorf("newer version: %v", err)
	}
	if _, err := trust.ParseEntry(make([]byte, trust.MaxEntry+1)); err == nil {
		t.Error("an entry over the cap parses")
	}
	anchor := addition(st, ben, trust.RoleAnchor)
	if _, err := (trust.Draft{Kind: trust.KindAdd, Parents: st.Heads(), Payload: anchor.Encode()}).Sign(ada); err == nil {
		t.Error("an anchor added as a device")
	}
	if _, err := (trust.Draft{Kind: trust.KindAdd, Payload: addition(st, ben, 2).Encode()}).Sign(ada); err == nil {
		t.Error("an add entry without parents")
	}
	f, _ := st.Entries()[0].Founding()
	if _, err := (trust.Draft{Kind: trust.KindFound, Payload: f.Encode()}).Sign(ada); err == nil {
		t.Error("a founding entry without the root's signature")
	}
	f.Scopes[0].Boxes = f.Scopes[0].Boxes[1:]
	if _, err := (trust.Draft{Kind: trust.KindFound, Payload: f.Encode()}).Sign(ada, root); err == nil {
		t.Error("a founding entry without a box for the recovery key")
	}
}

func TestContextsAreApart(t *testing.T) {
	msg := []byte("message")
	sig := ada.Sign(trust.ContextChunk, msg)
	if !trust.VerifySignature(ada.Device(), trust.ContextChunk, msg, sig) {
		t.Error("own signature does not verify")
	}
	if trust.VerifySignature(ada.Device(), trust.ContextEntry, msg, sig) ||
		trust.VerifySignature(ben.Device(), trust.ContextChunk, msg, sig) ||
		trust.VerifySignature(ada.Device(), trust.ContextChunk, msg, sig[:63]) {
		t.Error("a signature verifies as another")
	}
}

func FuzzParseEntry(f *testing.F) {
	st := begin(f)
	unknown := draft(f, st, 77, []byte("payload of "+fuzzing.Canary), ada)
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := trust.ParseEntry(b)
		return err
	}, st.Entries()[0].Bytes(), add(f, st, ada, ben, trust.RoleMember).Bytes(), unknown.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		var e trust.Entry
		var err error
		fuzzing.Allocates(t, len(b), 2, 512<<10, func() { e, err = trust.ParseEntry(b) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Bytes(), b) || !bytes.Equal(e.Reencode(), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
		_, err = st.With(e)
		fuzzing.Quiet(t, err)
	})
}

// FuzzPayload reads what entries of every kind state, without an entry around it.
func FuzzPayload(f *testing.F) {
	l := draw(f, `
		0 -> 1   ada adds ben admin
		1 -> 2   ada adds fin anchor
		2 -> 3   ada makes ben reader a3 b4
		3 -> 4   ada rotates clinical
		4 -> 5   ada creates more ada ben
		5 -> 6   ada reseeds ada ben
		6 -> 7   ada checks
		7 -> 8   ada names ben upstairs
		8 -> 9   ada replaces root root2
		9 -> 10  ada removes ben a7`)
	var seeds [][]byte
	for _, name := range l.names {
		e := l.entries[name]
		seeds = append(seeds, append([]byte{byte(e.Kind())}, e.Payload()...))
	}
	read := func(b []byte) ([]byte, error) {
		if len(b) == 0 {
			return nil, nil
		}
		return trust.ReencodePayload(trust.Kind(b[0]), b[1:])
	}
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := read(b)
		return err
	}, seeds...)
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 16, 512<<10, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		if err == nil && again != nil && !bytes.Equal(again, b[1:]) {
			t.Error("does not re-encode to the same bytes")
		}
	})
}

func BenchmarkReplay(b *testing.B) {
	st := begin(b)
	for i := range 200 {
		st = with(b, st, add(b, st, ada, newSigner(fmt.Sprint(i)), trust.RoleMember))
	}
	all := st.Entries()
	for b.Loop() {
		if got, _ := trust.Replay(all); got.Len() != len(all) {
			b.Fatal("lost entries")
		}
	}
}
