package keyring

import (
	"bytes"
	"errors"
	"testing"

	"chartmesh/trust"
)

// TestQuorumNames: what a quorum knows a thing by is the same for all members, before and after keys change, and tells kinds and parts apart.
func TestQuorumNames(t *testing.T) {
	a, b, stranger := create(t), create(t), create(t)
	st, _ := foundPractice(t, a)
	st = admit(t, st, a, b, trust.RoleMember)
	for _, k := range []*Keyring{a, b, stranger} {
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
	}
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	ids := map[[32]byte]bool{}
	name := func(k *Keyring, kind string, parts ...string) [32]byte {
		t.Helper()
		id, err := k.QuorumName(scope, kind, parts...)
		if err != nil {
			t.Fatal(err)
		}
		ids[id] = true
		return id
	}
	for _, kind := range []string{"lock", "circle"} {
		for _, parts := range [][]string{{"ab", "c"}, {"a", "bc"}, {"abc"}, {}} {
			if name(a, kind, parts...) != name(b, kind, parts...) {
				t.Error("two members know a thing by other names")
			}
		}
	}
	if len(ids) != 8 {
		t.Errorf("there are %d names, want 8", len(ids))
	}
	before := name(b, "lock", "billing")
	c := create(t)
	st = admit(t, st, a, c, trust.RoleReader)
	e, err := a.Remove(st, c.Device(), nil, now)
	st = rotateAll(t, take(t, st, e, err), &a.administrator)
	for _, k := range []*Keyring{a, b} {
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
		if name(k, "lock", "billing") != before {
			t.Error("a name changed with the keys")
		}
	}
	if _, err := stranger.QuorumName(scope, "lock", "billing"); !errors.Is(err, trust.ErrNoKey) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := stranger.SealNote(scope, nil, nil); !errors.Is(err, trust.ErrNoKey) {
		t.Errorf("a stranger's note: %v", err)
	}
}

// TestNotes: a note opens for members, in its context, whole.
func TestNotes(t *testing.T) {
	a, b := create(t), create(t)
	st, _ := foundPractice(t, a)
	st = admit(t, st, a, b, trust.RoleMember)
	for _, k := range []*Keyring{a, b} {
		if err := k.Learn(st); err != nil {
			t.Fatal(err)
		}
	}
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	sizes := map[int]bool{}
	for n := range 130 {
		plain := bytes.Repeat([]byte{byte(n % 3)}, n) // zeros and ones at the end among them
		sealed, err := a.SealNote(scope, []byte("here"), plain)
		if err != nil {
			t.Fatal(err)
		}
		sizes[len(sealed)] = true
		got, err := b.OpenNote(scope, []byte("here"), sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("a note of %d bytes opens as %x: %v", n, got, err)
		}
		if _, err := b.OpenNote(scope, []byte("there"), sealed); !errors.Is(err, trust.ErrSealBroken) {
			t.Fatalf("elsewhere: %v", err)
		}
		sealed[len(sealed)/2] ^= 1
		if _, err := b.OpenNote(scope, []byte("here"), sealed); !errors.Is(err, trust.ErrSealBroken) {
			t.Fatalf("altered: %v", err)
		}
		if _, err := b.OpenNote(scope, []byte("here"), sealed[:n%40]); !errors.Is(err, trust.ErrSealBroken) {
			t.Fatalf("cut: %v", err)
		}
	}
	if len(sizes) != 3 {
		t.Errorf("notes of 0 to 129 bytes have %d lengths", len(sizes))
	}
}
