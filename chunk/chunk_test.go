package chunk_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

var (
	_ chunk.Sealer = (*keyring.Keyring)(nil)
	_ chunk.Opener = (*keyring.Keyring)(nil)
	_ chunk.Opener = (*keyring.Recovery)(nil)
)

var now = time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)

// practice is a practice of two devices, an administrator and a member.
type practice struct {
	admin, member *keyring.Keyring
	state         *trust.State
	clinical      trust.ScopeID
	code          string
}

func newPractice(t testing.TB) practice {
	t.Helper()
	var p practice
	var err error
	if p.admin, err = keyring.Create("", nil); err != nil {
		t.Fatal(err)
	}
	if p.member, err = keyring.Create("", nil); err != nil {
		t.Fatal(err)
	}
	founding, code, err := p.admin.Found(keyring.FoundOptions{
		Practice: "Praxis am Markt", Device: "Anmeldung", Site: "Hauptsitz", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	p.code = code
	if p.state, err = trust.Found(founding); err != nil {
		t.Fatal(err)
	}
	add, err := p.admin.Admit(p.state, keyring.Newcomer{
		Device: p.member.Device(), HPKE: p.member.HPKEPublic(), DeviceName: "Sprechzimmer", SiteName: "Filiale", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if p.state, err = p.state.With(add); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*keyring.Keyring{p.admin, p.member} {
		if err := k.Learn(p.state); err != nil {
			t.Fatal(err)
		}
	}
	var ok bool
	if p.clinical, ok = p.state.ScopeNamed(trust.ScopeClinical); !ok {
		t.Fatal("no clinical scope")
	}
	return p
}

func (p practice) params(k *keyring.Keyring) chunk.Params {
	return chunk.Params{Membership: p.state, Scope: p.clinical, Log: chunk.CurrentLog(k), Counter: 1}
}

func (p practice) changes(t testing.TB, size int) *chunk.Changes {
	t.Helper()
	doc, err := p.admin.DocumentID(p.clinical, "patient-1", "core")
	if err != nil {
		t.Fatal(err)
	}
	return &chunk.Changes{
		Document: doc, Schema: 1, TimeMillis: now.UnixMilli(), Author: "Dr. Özil", Origin: chunk.OriginEdit,
		Changes:    []chunk.Change{{Branch: 0, Raw: text(size)}},
		Authorship: []chunk.Authorship{{Branch: 0, Seq: 7, Newest: [32]byte{1, 2, 3}}},
	}
}

// text makes bytes that compress about as records do.
func text(size int) []byte {
	words := []string{"Observation", "status", "final", "valueQuantity", "mmol/l", "2026-11-", "Patient/", "\x00\x01\x7f"}
	var b []byte
	for i := uint32(1); len(b) < size; i++ {
		x := i * 2654435761
		b = append(b, words[x>>29]...)
		b = append(b, byte(x>>8), byte('0'+x>>16%10))
	}
	return b[:size]
}

func TestSealOpen(t *testing.T) {
	p := newPractice(t)
	for _, size := range []int{1, 100, 1000, 5000, 300_000, chunk.MaxChanges} {
		want := p.changes(t, size)
		s, err := chunk.Seal(p.member, p.params(p.member), want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := chunk.Parse(s.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if got.ID() != s.ID() || got.Header() != s.Header() || got.Log() != chunk.CurrentLog(p.member) {
			t.Error("parsed chunk differs from the sealed one")
		}
		if err := got.Verify(p.state); err != nil {
			t.Error(err)
		}
		body, err := chunk.Open(p.admin, got)
		if err != nil {
			t.Fatal(err)
		}
		c := body.(*chunk.Changes)
		if c.Document != want.Document || c.Author != want.Author || c.Schema != want.Schema || c.Origin != want.Origin ||
			c.TimeMillis != want.TimeMillis || len(c.Changes) != 1 || !bytes.Equal(c.Changes[0].Raw, want.Changes[0].Raw) ||
			c.Authorship[0] != want.Authorship[0] {
			t.Error("opened body differs from the sealed one")
		}
		t.Logf("%8d bytes of changes: chunk of %d", size, len(s.Bytes()))
		r, err := keyring.OpenWithRecovery(p.code, p.state)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chunk.Open(r, got); err != nil {
			t.Errorf("open with recovery code: %v", err)
		}
	}
}

func TestOpenWithoutKey(t *testing.T) {
	p := newPractice(t)
	s, err := chunk.Seal(p.member, p.params(p.member), p.changes(t, 100))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := keyring.Create("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chunk.Open(stranger, s); !errors.Is(err, chunk.ErrNoKey) {
		t.Errorf("open by a stranger: %v, want ErrNoKey", err)
	}
}
