package chunk_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"chartmesh/chunk"
	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
	"chartmesh/wire"
)

func seal(t testing.TB, p practice, k *keyring.Keyring, params chunk.Params, b chunk.Body) chunk.Sealed {
	t.Helper()
	s, err := chunk.Seal(k, params, b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEveryByteCounts(t *testing.T) {
	p := newPractice(t)
	params := p.params(p.member)
	params.Fence = chunk.Fence{Epoch: 1, Index: 2}
	s := seal(t, p, p.member, params, p.changes(t, 50))
	for i := range s.Bytes() {
		b := bytes.Clone(s.Bytes())
		b[i] ^= 1 << (i % 8)
		got, err := chunk.Parse(b)
		if err != nil {
			continue
		}
		if got.ID() == s.ID() {
			t.Fatalf("byte %d changed and the ID is the same", i)
		}
		if err := got.Verify(p.state); !errors.Is(err, chunk.ErrBadSignature) {
			t.Fatalf("byte %d changed: verify: %v", i, err)
		}
		if _, err := chunk.Open(p.admin, got); err == nil && i < len(b)-64 {
			t.Fatalf("byte %d changed and the body opens", i)
		}
	}
	for i := range s.Bytes() {
		if _, err := chunk.Parse(s.Bytes()[:i]); err == nil {
			t.Fatalf("the first %d bytes parse", i)
		}
	}
	if _, err := chunk.Parse(append(bytes.Clone(s.Bytes()), 0)); err == nil {
		t.Error("a byte more parses")
	}
}

func TestVerify(t *testing.T) {
	p := newPractice(t)
	s := seal(t, p, p.member, p.params(p.member), p.changes(t, 50))

	founding, err := trust.Found(p.state.Entries()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(founding); !errors.Is(err, chunk.ErrUnknownAuthor) {
		t.Errorf("before the author was added: %v", err)
	}
	other := newPractice(t)
	if err := s.Verify(other.state); !errors.Is(err, chunk.ErrUnknownAuthor) {
		t.Errorf("in another practice: %v", err)
	}

	// A reader's chunk, sealed by a program that does not ask whether it may.
	reader, err := keyring.Create("", nil)
	if err != nil {
		t.Fatal(err)
	}
	with := func(role trust.Role) *trust.State {
		add, err := p.admin.Admit(p.state, keyring.Newcomer{Device: reader.Device(), HPKE: reader.HPKEPublic(), Role: role, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		st, err := p.state.With(add)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	asReader := with(trust.RoleReader)
	if err := reader.Learn(asReader); err != nil {
		t.Fatal(err)
	}
	params := p.params(reader)
	params.Membership = with(trust.RoleMember)
	byReader := seal(t, p, reader, params, p.changes(t, 50))
	if err := byReader.Verify(asReader); !errors.Is(err, chunk.ErrNotAllowed) {
		t.Errorf("a reader's chunk: %v", err)
	}
	params.Membership = asReader
	if _, err := chunk.Seal(reader, params, p.changes(t, 50)); !errors.Is(err, chunk.ErrNotAllowed) {
		t.Errorf("a reader seals: %v", err)
	}
	// An entry that this version cannot read may have given the right: the chunk waits.
	unknown, err := trust.Draft{Kind: 200, Parents: asReader.Heads(), Payload: []byte("?")}.Sign(p.admin)
	if err != nil {
		t.Fatal(err)
	}
	clouded, err := asReader.With(unknown)
	if err != nil {
		t.Fatal(err)
	}
	if err := byReader.Verify(clouded); !errors.Is(err, chunk.ErrUnknownAuthor) {
		t.Errorf("a reader's chunk beside an unknown entry: %v", err)
	}
}

// foreign signs as one device and claims another's log.
type foreign struct {
	*keyring.Keyring
	device trust.DeviceID
	nonce  [16]byte
}

func (f foreign) Device() trust.DeviceID { return f.device }
func (f foreign) LogNonce() [16]byte     { return f.nonce }

func TestNobodyWritesUnderAnothersLog(t *testing.T) {
	p := newPractice(t)
	victim := chunk.CurrentLog(p.admin)

	// Under the victim's name it does not verify.
	f := foreign{p.member, p.admin.Device(), p.admin.LogNonce()}
	params := p.params(p.admin)
	s, err := chunk.Seal(f, params, p.changes(t, 50))
	if err != nil {
		t.Fatal(err)
	}
	if s.Log() != victim {
		t.Fatal("the forger does not write the victim's log")
	}
	if err := s.Verify(p.state); !errors.Is(err, chunk.ErrBadSignature) {
		t.Errorf("forged author: %v", err)
	}
	if _, err := chunk.Open(p.admin, s); !errors.Is(err, chunk.ErrDamaged) {
		t.Errorf("forged authorship opens: %v", err)
	}
	// Under its own name and the victim's nonce it is another log.
	if chunk.LogOf(p.member.Device(), p.admin.LogNonce()) == victim {
		t.Error("the victim's nonce makes the victim's log")
	}
	f.device = p.member.Device()
	if _, err := chunk.Seal(f, params, p.changes(t, 50)); !errors.Is(err, chunk.ErrWrongLog) {
		t.Errorf("position of another log: %v", err)
	}
}

func TestMintedLogNeedsNewPosition(t *testing.T) {
	p := newPractice(t)
	params := p.params(p.member)
	if err := p.member.MintLog(); err != nil {
		t.Fatal(err)
	}
	if _, err := chunk.Seal(p.member, params, p.changes(t, 50)); !errors.Is(err, chunk.ErrWrongLog) {
		t.Errorf("sealed at the old log's position: %v", err)
	}
}

func TestLinks(t *testing.T) {
	p := newPractice(t)
	params := p.params(p.member)
	first := seal(t, p, p.member, params, p.changes(t, 50))
	params.Counter, params.Previous = 2, first.ID()
	second := seal(t, p, p.member, params, p.changes(t, 50))
	if !first.Follows(chunk.ID{}, 0) || !second.Follows(first.ID(), 1) {
		t.Error("does not follow its predecessor")
	}
	if second.Follows(first.ID(), 2) || second.Follows(chunk.ID{}, 1) || second.Follows(first.ID(), 0) ||
		first.Follows(first.ID(), 0) {
		t.Error("follows what it does not")
	}
	if second.Position() != chunk.At(2, second.ID()) {
		t.Error("position")
	}
	for _, bad := range []chunk.Params{
		{Counter: 0}, {Counter: 2}, {Counter: 1, Previous: first.ID()},
	} {
		bad.Membership, bad.Scope, bad.Log = params.Membership, params.Scope, params.Log
		if _, err := chunk.Seal(p.member, bad, p.changes(t, 50)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("counter %d: %v", bad.Counter, err)
		}
	}
	// Equal bodies at equal places are never equal chunks: the salt is fresh.
	again := seal(t, p, p.member, params, p.changes(t, 50))
	if again.ID() == second.ID() || again.Header().Salt == second.Header().Salt {
		t.Error("a salt came twice")
	}
}

func TestSealRefuses(t *testing.T) {
	p := newPractice(t)
	raw := []byte{1}
	word := chunk.Authorship{Seq: 1}
	for name, change := range map[string]func(c *chunk.Changes){
		"no change":            func(c *chunk.Changes) { c.Changes, c.Authorship = nil, nil },
		"empty change":         func(c *chunk.Changes) { c.Changes[0].Raw = nil },
		"no authorship":        func(c *chunk.Changes) { c.Authorship = nil },
		"authorship elsewhere": func(c *chunk.Changes) { c.Authorship[0].Branch = 1 },
		"authorship twice":     func(c *chunk.Changes) { c.Authorship = []chunk.Authorship{word, word} },
		"sequence 0":           func(c *chunk.Changes) { c.Authorship[0].Seq = 0 },
		"long author":          func(c *chunk.Changes) { c.Author = strings.Repeat("x", 257) },
		"author not UTF-8":     func(c *chunk.Changes) { c.Author = "\xff" },
		"no origin":            func(c *chunk.Changes) { c.Origin = 0 },
		"unknown origin":       func(c *chunk.Changes) { c.Origin = 9 },
		"too large":            func(c *chunk.Changes) { c.Changes[0].Raw = make([]byte, chunk.MaxChanges+1) },
		"too many": func(c *chunk.Changes) {
			c.Changes = make([]chunk.Change, chunk.MaxChangeCount+1)
			for i := range c.Changes {
				c.Changes[i].Raw = raw
			}
		},
	} {
		c := p.changes(t, 10)
		change(c)
		if _, err := chunk.Seal(p.member, p.params(p.member), c); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	params := p.params(p.member)
	params.Scope = trust.ScopeID{1}
	if _, err := chunk.Seal(p.member, params, p.changes(t, 10)); !errors.Is(err, chunk.ErrNotAllowed) {
		t.Errorf("unknown scope: %v", err)
	}
	params = p.params(p.member)
	params.Secret = chunk.Secret{1}
	if _, err := chunk.Seal(p.member, params, p.changes(t, 10)); !errors.Is(err, chunk.ErrNoKey) {
		t.Errorf("unknown document secret: %v", err)
	}
	big := &chunk.Opaque{Type: chunk.KindCheckpoint, Content: random(chunk.MaxChunk)}
	if _, err := chunk.Seal(p.member, p.params(p.member), big); !errors.Is(err, chunk.ErrTooLarge) {
		t.Errorf("over the chunk's cap: %v", err)
	}
	big.Content = make([]byte, chunk.MaxBody)
	if _, err := chunk.Seal(p.member, p.params(p.member), big); !errors.Is(err, chunk.ErrTooLarge) {
		t.Errorf("over the body's cap: %v", err)
	}
}

// random makes bytes that do not compress.
func random(n int) []byte {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

func TestSeveralBranches(t *testing.T) {
	p := newPractice(t)
	c := p.changes(t, 10)
	c.Changes = []chunk.Change{{Branch: 0, Raw: []byte("a")}, {Branch: 3, Raw: []byte("b")}, {Branch: 0, Raw: random(5000)}}
	c.Authorship = []chunk.Authorship{{Branch: 0, Seq: 2, Newest: [32]byte{1}}, {Branch: 3, Seq: 9, Newest: [32]byte{2}}}
	s := seal(t, p, p.member, p.params(p.member), c)
	b, err := chunk.Open(p.admin, s)
	if err != nil {
		t.Fatal(err)
	}
	got := b.(*chunk.Changes)
	if len(got.Changes) != 3 || !bytes.Equal(got.Changes[2].Raw, c.Changes[2].Raw) || got.Authorship[1].Newest != c.Authorship[1].Newest {
		t.Error("changes differ")
	}
	for _, a := range got.Authorship {
		actor := chunk.ActorOf(s.Log(), c.Document, a.Branch)
		st := chunk.Statement(c.Document, actor, a.Seq, a.Newest)
		if !trust.VerifySignature(p.member.Device(), trust.ContextAuthor, st, a.Signature[:]) {
			t.Error("authorship does not verify on its own")
		}
	}
}

func TestOpaque(t *testing.T) {
	p := newPractice(t)
	for _, kind := range []chunk.Kind{chunk.KindBlobManifest, 77} {
		in := &chunk.Opaque{Type: kind, Document: [32]byte{1}, Content: []byte("content")}
		params := p.params(p.member)
		params.Schema = 3
		s := seal(t, p, p.member, params, in)
		b, err := chunk.Open(p.admin, s)
		if err != nil {
			t.Fatal(err)
		}
		out := b.(*chunk.Opaque)
		if out.Type != kind || out.Document != in.Document || string(out.Content) != "content" || s.Header().Schema != 3 {
			t.Errorf("%v differs", kind)
		}
	}
}

func TestDictionary(t *testing.T) {
	p := newPractice(t)
	if err := chunk.RegisterDictionary(7, text(20_000)); err != nil {
		t.Fatal(err)
	}
	if err := chunk.RegisterDictionary(7, text(20_000)); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := chunk.RegisterDictionary(7, text(10_000)); err == nil {
		t.Error("another dictionary under the same ID")
	}
	if err := chunk.RegisterDictionary(0, text(10_000)); err == nil {
		t.Error("a dictionary under 0")
	}
	if err := chunk.RegisterDictionary(9, append([]byte{0x37, 0xA4, 0x30, 0xEC, 9, 0, 0, 0}, random(100)...)); err == nil {
		t.Error("a broken trained dictionary")
	}
	params := p.params(p.member)
	plain := seal(t, p, p.member, params, p.changes(t, 3000))
	params.Dictionary = 7
	s := seal(t, p, p.member, params, p.changes(t, 3000))
	if len(s.Bytes()) >= len(plain.Bytes()) {
		t.Errorf("%d bytes with a dictionary, %d without", len(s.Bytes()), len(plain.Bytes()))
	}
	b, err := chunk.Open(p.admin, s)
	if err != nil || !bytes.Equal(b.(*chunk.Changes).Changes[0].Raw, text(3000)) {
		t.Errorf("open: %v", err)
	}
	params.Dictionary = 8
	if _, err := chunk.Seal(p.member, params, p.changes(t, 3000)); !errors.Is(err, chunk.ErrNewer) {
		t.Errorf("unknown dictionary: %v", err)
	}
}

func TestUnknownAlgorithmWaits(t *testing.T) {
	p := newPractice(t)
	s := seal(t, p, p.member, p.params(p.member), p.changes(t, 50))
	b := bytes.Clone(s.Bytes())
	b[4] = 9
	got, err := chunk.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chunk.Open(p.admin, got); !errors.Is(err, chunk.ErrNewer) {
		t.Errorf("algorithm 9: %v", err)
	}
	b[3] = 2
	if _, err := chunk.Parse(b); !errors.Is(err, chunk.ErrNewer) {
		t.Errorf("version 2: %v", err)
	}
}

func TestNothingPrintsPatients(t *testing.T) {
	p := newPractice(t)
	const canary = "Zwetschgenmus"
	c := p.changes(t, 10)
	c.Author = canary
	c.Changes[0].Raw = []byte(canary)
	o := &chunk.Opaque{Type: 7, Content: []byte(canary)}
	s := seal(t, p, p.member, p.params(p.member), c)
	var out bytes.Buffer
	for _, v := range []any{c, o, s, []any{c, o, s}, struct{ B chunk.Body }{c}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "c", c, "o", o, "s", s)
	if strings.Contains(out.String(), canary) {
		t.Error("a body is printed")
	}
}

func TestConcurrentUse(t *testing.T) {
	p := newPractice(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				c := p.changes(t, 500*(i+1))
				s, err := chunk.Seal(p.member, p.params(p.member), c)
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := chunk.Open(p.admin, s); err != nil || len(b.(*chunk.Changes).Changes[0].Raw) != 500*(i+1) {
					t.Errorf("open: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzParse(f *testing.F) {
	p := newPractice(f)
	params := p.params(p.member)
	first := seal(f, p, p.member, params, p.changes(f, 10))
	params.Fence, params.Counter, params.Previous = chunk.Fence{Epoch: 3, Index: 400}, 300, chunk.ID{1}
	second := seal(f, p, p.member, params, &chunk.Opaque{Type: chunk.KindBlobManifest})
	params.Dictionary = chunk.Dictionary1
	third := seal(f, p, p.member, params, p.changes(f, 300))
	fuzzing.Seeds(f, func(b []byte) error {
		s, err := chunk.Parse(b)
		if err == nil {
			err = s.Verify(p.state)
		}
		return err
	}, first.Bytes(), second.Bytes(), third.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		var s chunk.Sealed
		var err error
		fuzzing.Allocates(t, len(b), 0, 4<<10, func() { s, err = chunk.Parse(b) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if !bytes.Equal(chunk.Reencode(s), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
		fuzzing.Quiet(t, s.Verify(p.state))
		_, err = chunk.Open(p.admin, s)
		fuzzing.Quiet(t, err)
	})
}
